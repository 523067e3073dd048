"""A detector's decision: one for all images, or one per group of images; NumPy only.

Each group (a camera, a product) is decided from its own calibration images, so that the guarantee holds within every
group and not only overall (Mondrian conformal prediction: Vovk, Gammerman & Shafer, 2005).
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

UNGROUPED = ""  # the name of the only part of a decision without groups
Method = Literal["conformal", "train_percentile"]


class GroupedDecision:
    """A detector's decision for all images, or for each group of images.

    `parts` maps the name of each group to its `Decision`; without groups, the only name is `UNGROUPED`. Methods that
    take `groups` need the group name of each of the N images if there are groups, and ignore it otherwise.

    Raises:
        StateError (by every method that takes `groups`): there are groups, and not every image has its group.
        SettingsError: the group of an image has no calibration images.
    """

    def __init__(self, parts: Mapping[str, Decision]) -> None:
        self.parts = dict(parts)

    @property
    def grouped(self) -> bool:
        """Whether each group has its own decision."""
        return UNGROUPED not in self.parts

    @property
    def single(self) -> Decision:
        """The decision for all images.

        Raises:
            StateError: there is one decision per group.
        """
        if self.grouped:
            raise StateError(f"this detector has a threshold for each group ({', '.join(self.parts)}): name a group")
        return self.parts[UNGROUPED]

    @property
    def settings(self) -> DecisionSettings:
        """The requested settings; the same for every group."""
        return next(iter(self.parts.values())).settings

    @property
    def false_alarm_rate(self) -> float:
        """The requested or default false-alarm rate; the highest of all groups."""
        return max(part.false_alarm_rate for part in self.parts.values())

    @property
    def guaranteed_rate(self) -> float | None:
        """The false-alarm rate that is guaranteed; None where the method gives no guarantee."""
        return self.false_alarm_rate if self.settings.method == "conformal" else None

    @property
    def threshold(self) -> float | None:
        """The threshold; None if each group has its own."""
        return None if self.grouped else self.single.threshold

    def check(self) -> None:
        """Refuse guarantees that the calibration images do not support.

        Raises:
            CalibrationError: a requested rate cannot be guaranteed; the message names the group, if any, and the
                lowest rate that it can guarantee.
        """
        for name, part in self.parts.items():
            with add_group_to_errors(name):
                part.threshold  # noqa: B018 - only to raise its errors

    def thresholds(self, count: int, groups: Sequence[str] = ()) -> Scores:
        """Threshold (N,) that applies to each image."""
        thresholds = np.empty(count)
        for part, rows in self.rows_by_part(count, groups):
            thresholds[rows] = part.threshold
        return thresholds

    def thresholds_by(self, method: Method, count: int, groups: Sequence[str] = ()) -> Scores | None:
        """Threshold (N,) of a method for each image, in use or not; None if a group has none."""
        thresholds = np.empty(count)
        for part, rows in self.rows_by_part(count, groups):
            threshold = part.conformal_threshold if method == "conformal" else part.percentile_threshold
            if threshold is None:
                return None
            thresholds[rows] = threshold
        return thresholds

    def p_values(self, scores: Scores, groups: Sequence[str] = ()) -> Scores:
        """Conformal p-values (N,) of the scores (N,), each within its group."""
        p_values = np.empty(len(scores))
        for part, rows in self.rows_by_part(len(scores), groups):
            p_values[rows] = part.p_values(scores[rows])
        return p_values

    def discovery_thresholds(self, scores: Scores, rate: float, groups: Sequence[str] = ()) -> Scores:
        """Thresholds (N,) above which, among all these images, at most `rate` are normal on average.

        P-values of several groups are compared as fractions with a common denominator.
        """
        self.check_images(len(scores), groups, control_fdr=True)
        parts = self.rows_by_part(len(scores), groups)
        denominators = [part.calibration.count + 1 for part, _ in parts]
        common, ranks = math.lcm(*denominators), np.empty(len(scores), dtype=object)
        for (part, rows), denominator in zip(parts, denominators, strict=True):
            ranks[rows] = [int(rank) * (common // denominator) for rank in part.ranks(scores[rows])]
        max_rank, thresholds = benjamini_hochberg_rank(ranks, common - 1, rate), np.empty(len(scores))
        for (part, rows), denominator in zip(parts, denominators, strict=True):
            thresholds[rows] = part.threshold_at_rank(max_rank * denominator // common)
        return thresholds

    def check_images(self, count: int, groups: Sequence[str] = (), *, control_fdr: bool = False) -> None:
        """Refuse N images that cannot be decided, before they are scored.

        Raises:
            SettingsError: with `control_fdr`, the calibration images were used for training.
            StateError, CalibrationError: as `Decision.threshold`.
        """
        for part, _ in self.rows_by_part(count, groups):
            if control_fdr:
                part.calibration.independent  # noqa: B018 - only to raise its errors
            part.threshold  # noqa: B018 - only to raise its errors

    def fdr_warning(self, count: int, rate: float, groups: Sequence[str] = ()) -> str | None:
        """`Decision.fdr_warning` of the group with the most calibration images, among the groups of these N images."""
        parts = [part for part, _ in self.rows_by_part(count, groups)] or list(self.parts.values())
        return max(parts, key=lambda part: part.calibration.n_clusters).fdr_warning(count, rate)

    def summary_lines(self) -> list[str]:
        """The sentences of `Decision.summary_lines`, preceded by the name of their group."""
        return [
            f"{name}: {line}" if name else line for name, part in self.parts.items() for line in part.summary_lines()
        ]

    def promises(self) -> list[str]:
        """The sentence of `Decision.promise` for each part, preceded by the name of its group."""
        return [f"{name}: {part.promise()}" if name else part.promise() for name, part in self.parts.items()]

    def as_json(self) -> dict[str, Any]:
        """Rate, threshold and guarantee, in numbers and as a sentence; with groups, one entry each under `groups`."""
        if not self.grouped:
            part = self.single
            return {
                "false_alarm_rate": part.false_alarm_rate,
                "threshold": part.threshold,
                "promise": part.promise(),
                "guarantee": part.guarantee(),
            }
        groups = {
            name: {"n_calibration": len(part.calibration), **GroupedDecision({UNGROUPED: part}).as_json()}
            for name, part in self.parts.items()
        }
        return {"false_alarm_rate": self.false_alarm_rate, "threshold": None, "groups": groups}

    def rows_by_part(self, count: int, groups: Sequence[str]) -> list[tuple[Decision, npt.NDArray[np.intp]]]:
        """Each decision with the indices of its images; groups without images are omitted."""
        if not self.grouped:
            return [(self.single, np.arange(count))]
        if len(groups) != count:
            raise StateError(
                f"this detector has a threshold for each group ({', '.join(self.parts)}), and {len(groups)} of {count} "
                "images have a group: give the group of each image (--group-by)"
            )
        names = np.array(groups, dtype=object)
        unknown = sorted(set(groups) - self.parts.keys())
        if unknown:
            raise SettingsError(
                f"group {unknown[0]!r} has no calibration images (calibrated groups: {', '.join(self.parts)}); run "
                "`oddlens calibrate` with normal images of every group"
            )
        parts = [(part, np.flatnonzero(names == name)) for name, part in self.parts.items()]
        return [(part, rows) for part, rows in parts if len(rows)]


@contextlib.contextmanager
def add_group_to_errors(group: str) -> Iterator[None]:
    """Prefix the message of a CalibrationError with the name of the group, if there is one."""
    try:
        yield
    except CalibrationError as error:
        raise CalibrationError(f"group {group}: {error}" if group else str(error)) from error
