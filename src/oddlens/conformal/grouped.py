"""What a detector decides by: one decision for all images, or one for each group of them; NumPy alone.

Each group (a camera, a product) is decided by its own calibration images, so that the promise holds within every
group and not only on the whole (Mondrian conformal prediction: Vovk, Gammerman & Shafer, 2005).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import Scores, benjamini_hochberg_rank
from oddlens.errors import CalibrationError, SettingsError, StateError

EVERYTHING = ""  # the name of the only group, where images are not told apart
Method = Literal["conformal", "train_percentile"]


class GroupedDecision:
    """A detector's decision: one for all images, or one for each group that it tells apart.

    `parts` has the `Decision` of each group by its name; without groups, the only name is `EVERYTHING`. Wherever
    scores (N,) are judged, `groups` names the group of each image; it may be left out where there are none.

    Raises:
        StateError (by every method that takes `groups`): none are given where there are groups.
        SettingsError: an image is of a group that has no calibration images.
    """

    def __init__(self, parts: Mapping[str, Decision]) -> None:
        self.parts = dict(parts)

    @property
    def grouped(self) -> bool:
        """Whether each group has a decision of its own."""
        return EVERYTHING not in self.parts

    @property
    def single(self) -> Decision:
        """The decision for all images.

        Raises:
            StateError: there is one for each group.
        """
        if self.grouped:
            raise StateError(f"this detector decides for each group by itself ({', '.join(self.parts)}); name one")
        return self.parts[EVERYTHING]

    @property
    def settings(self) -> DecisionSettings:
        """What was asked for; the same for every group."""
        return next(iter(self.parts.values())).settings

    @property
    def false_alarm_rate(self) -> float:
        """The rate that was asked for or chosen; of several groups the highest."""
        return max(part.false_alarm_rate for part in self.parts.values())

    @property
    def threshold(self) -> float | None:
        """The threshold; None where every group has its own."""
        return None if self.grouped else self.single.threshold

    def check(self) -> None:
        """Refuse promises that cannot be kept.

        Raises:
            CalibrationError: names the group, if there are any, and what it can promise.
        """
        for name, part in self.parts.items():
            with add_group_to_errors(name):
                part.threshold  # noqa: B018 - refused, not used

    def thresholds(self, count: int, groups: Sequence[str] = ()) -> Scores:
        """(N,) the threshold that decides about each image."""
        found = np.empty(count)
        for part, rows in self._split(count, groups):
            found[rows] = part.threshold
        return found

    def thresholds_by(self, method: Method, count: int, groups: Sequence[str] = ()) -> Scores | None:
        """(N,) the threshold that a method gives for each image, whichever decides; None where a group lacks it."""
        found = np.empty(count)
        for part, rows in self._split(count, groups):
            limit = part.conformal_threshold if method == "conformal" else part.percentile_threshold
            if limit is None:
                return None
            found[rows] = limit
        return found

    def p_values(self, scores: Scores, groups: Sequence[str] = ()) -> Scores:
        """(N,) conformal p-values, each within its group."""
        found = np.empty(len(scores))
        for part, rows in self._split(len(scores), groups):
            found[rows] = part.p_values(scores[rows])
        return found

    def discovery_thresholds(self, scores: Scores, rate: float, groups: Sequence[str] = ()) -> Scores:
        """(N,) thresholds above which, among all these images, at most `rate` are normal on average.

        P-values of several groups are compared as fractions with one denominator.
        """
        self.require(len(scores), groups, discoveries=True)
        split = self._split(len(scores), groups)
        sizes = [len(part.calibration_scores) + 1 for part, _ in split]
        common, ranks = math.lcm(*sizes), np.empty(len(scores), dtype=object)
        for (part, rows), size in zip(split, sizes, strict=True):
            ranks[rows] = [int(rank) * (common // size) for rank in part.ranks(scores[rows])]
        largest, found = benjamini_hochberg_rank(ranks, common - 1, rate), np.empty(len(scores))
        for (part, rows), size in zip(split, sizes, strict=True):
            found[rows] = part.threshold_at_rank(largest * size // common)
        return found

    def require(self, count: int, groups: Sequence[str] = (), *, discoveries: bool = False) -> None:
        """Refuse N images that cannot be judged, before they are scored; with `discoveries`, all at once."""
        for part, _ in self._split(count, groups):
            if discoveries and part.folds > 1:
                raise SettingsError(
                    "a false discovery rate needs a calibration by images apart from the training ones, and this "
                    "detector was calibrated in folds; run `oddlens calibrate` with new normal images"
                )
            part.threshold  # noqa: B018 - refused, not used

    def too_few_for(self, count: int, rate: float, groups: Sequence[str] = ()) -> str | None:
        """As `Decision.too_few_for`, of the group of these N images that has the most calibration images."""
        parts = [part for part, _ in self._split(count, groups)] or list(self.parts.values())
        return max(parts, key=lambda part: len(part.calibration_scores)).too_few_for(count, rate)

    def summary_lines(self) -> list[str]:
        """What is promised, in sentences; of each group beside its name."""
        return [
            f"{name}: {line}" if name else line for name, part in self.parts.items() for line in part.summary_lines()
        ]

    def promises(self) -> list[str]:
        """The promise of each part, in a sentence."""
        return [f"{name}: {part.promise()}" if name else part.promise() for name, part in self.parts.items()]

    def as_json(self) -> dict[str, Any]:
        """Rate, threshold and promise in numbers and words; with groups, of each of them under `groups`."""
        if not self.grouped:
            part = self.single
            return {
                "false_alarm_rate": part.false_alarm_rate,
                "threshold": part.threshold,
                "promise": part.promise(),
                "guarantee": part.guarantee(),
            }
        groups = {
            name: {"n_calibration": len(part.calibration_scores), **GroupedDecision({EVERYTHING: part}).as_json()}
            for name, part in self.parts.items()
        }
        return {"false_alarm_rate": self.false_alarm_rate, "threshold": None, "groups": groups}

    def _split(self, count: int, groups: Sequence[str]) -> list[tuple[Decision, npt.NDArray[np.intp]]]:
        """Each decision with the places of its images; groups without images are left out."""
        if not self.grouped:
            return [(self.single, np.arange(count))]
        if len(groups) != count:
            raise StateError(
                f"this detector decides for each group by itself ({', '.join(self.parts)}), and {count} images came "
                "without their groups; give them (--group-by)"
            )
        names = np.array(groups, dtype=object)
        unknown = sorted(set(groups) - self.parts.keys())
        if unknown:
            raise SettingsError(
                f"group {unknown[0]!r} has no calibration images (there are: {', '.join(self.parts)}); run `oddlens "
                "calibrate` with normal images of every group"
            )
        split = [(part, np.flatnonzero(names == name)) for name, part in self.parts.items()]
        return [(part, rows) for part, rows in split if len(rows)]


@contextlib.contextmanager
def add_group_to_errors(group: str) -> Iterator[None]:
    """Let the errors of a calibration say which group's it is, where there are groups."""
    try:
        yield
    except CalibrationError as error:
        raise CalibrationError(f"group {group}: {error}" if group else str(error)) from error
