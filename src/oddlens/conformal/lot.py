"""A test of a lot of images as a whole: whether the calibration images still say anything about them; NumPy only.

A guarantee holds for images that resemble the calibration images. The test counts the images of a lot that score above
the calibration median, and those that are brighter, or darker, than the median of the calibration images. Its null
hypothesis: all images of the lot but a share `max_anomalous` of them are normal, and exchangeable with the calibration
images. Where all images are labelled as normal, `alarms_p_value` says how probable their false alarms are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.decision import Decision
from oddlens.conformal.exceedance import (
    DEFAULT_MAX_ANOMALOUS,
    exceedance_p_value,
    lot_p_value,
    max_anomalous_images,
    max_rank_above,
)
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.light import LightCount, LightTest
from oddlens.conformal.ranks import Scores, check_scores, format_percent

MIN_IMAGES = 30  # smaller lots are not tested
MIN_CHANCE = 1e-4  # smaller probabilities are called at most this
LEVEL = 0.01  # probability of reporting a shift of a lot that has none, at most


def alarms_p_value(decisions: GroupedDecision, scores: npt.ArrayLike, groups: Sequence[str] = ()) -> float | None:
    """Probability of at least as many false alarms as among normal images with these scores (N,), by chance.

    It is that of images which are exchangeable with the calibration images, so that the guarantee holds for them. Where
    groups of near-duplicates are counted, an image counts if it is also above the threshold that one image of each
    group, drawn at random, would give: that makes the count no larger. With a threshold for each group of images, it is
    the smallest of the groups' probabilities times their number (Bonferroni). None without images, without a guarantee,
    and where calibration images were scored by leave-one-out or in folds, so that they depend on each other.

    Raises:
        CalibrationError: a score is NaN.
        StateError, SettingsError: as the methods of `GroupedDecision` that take groups.
    """
    checked, p_values = check_scores(scores, "score"), list[float]()
    for part, rows in decisions.rows_by_part(len(checked), groups):
        calibration, settings = part.calibration, part.settings
        if settings.method != "conformal" or part.conformal_threshold is None or not part.scheme.is_held_out:
            return None
        if len(rows):
            rank = calibration.count + 1 - calibration.rank(part.false_alarm_rate, settings.confidence)  # from the top
            n_above = int((checked[rows] > max(part.threshold, part.threshold_at_rank(rank))).sum())
            p_values.append(exceedance_p_value(n_above, len(rows), calibration.count, rank))
    return min(1.0, min(p_values) * len(p_values)) if p_values else None


def compared_units(part: Decision) -> int:
    """The number of calibration units whose median the scores of a lot are compared with.

    It is the number of calibration images, or of their groups of near-duplicates, of which one image each is compared.

    With K folds it is the number of images in the largest fold, at least n / K. An image that fewer than h of all n
    calibration images reach, each by the detector that was not trained on it, is reached by fewer than h in every fold.
    So the count of such images is at most that of the images above the median of the largest fold, by one detector that
    was trained neither on that fold nor on the lot. This is valid, and notices large shifts only.
    """
    return math.ceil(part.calibration.n_clusters / part.scheme.folds)


def independent_units(part: Decision) -> int:
    """The number of calibration units that count in the p-value of a lot.

    Leave-one-out scores depend on each other, so that they count as half as many. This is measured, not proved: with
    60 training images that counted as 60 units, the level of 1% rose to 2.1%.
    """
    n_units = compared_units(part)
    return max(1, n_units // 2) if part.scheme.name == "leave-one-out" else n_units


@dataclass(frozen=True)
class LotTest:
    """The result of testing n images as a whole; what `Detector.test_lot` returns.

    `light` is the comparison of brightness, where that is known; its p-value is part of `p_value`. Where each group has
    a threshold of its own, `groups` has the result of each group that was tested, and `untested_groups` the number of
    images in each of the others.

    Example: see `Detector.test_lot`.
    """

    n: int
    p_value: float  # with several groups, each is multiplied by their number (Bonferroni), and this is the smallest
    max_anomalous: float
    groups: Mapping[str, LotTest] = field(default_factory=dict)
    untested_groups: Mapping[str, int] = field(default_factory=dict)
    light: LightTest | None = None  # None with groups, and where the brightness of the images is not known

    @property
    def shifted(self) -> bool:
        """Whether the images differ from the calibration images as a whole, so that no guarantee applies to them."""
        return self.p_value <= LEVEL

    def as_json(self) -> dict[str, Any]:
        """The result for JSON."""
        values = self._result() | {"max_anomalous": self.max_anomalous}
        groups = {name: test._result() for name, test in self.by_group}
        return values | ({"groups": groups, "untested_groups": dict(self.untested_groups)} if self.groups else {})

    def _result(self) -> dict[str, Any]:
        light = {} if self.light is None else {"brightness": self.light.as_json()}
        return {"p_value": self.p_value, "shifted": self.shifted, "n": self.n, **light}

    @property
    def by_group(self) -> list[tuple[str, LotTest]]:
        """Each group's name and result; without groups, an empty name and this result."""
        return list(self.groups.items()) or [(UNGROUPED, self)]

    def warnings(self, rate: str, images: str = "images", option: str = "") -> list[str]:
        """A sentence for each shifted group: what no longer holds, and what to do.

        `rate` names what was guaranteed, and `option` is how to change `max_anomalous`, if there is a way.
        """
        share = f"{format_percent(self.max_anomalous)} of them are anomalous{option and f' ({option})'}"
        condition = f"Unless more than {share}, " if self.max_anomalous else "So "
        return [
            f"{name and f'{name}: '}These {test.n} {images} differ from the calibration images as a whole "
            f"(p = {test.p_value:.2g}){test._reason}. {condition}{rate} is not guaranteed for them: recalibrate with "
            "`oddlens calibrate` on normal images from the same source, or fit again."
            for name, test in self.by_group
            if test.shifted
        ]

    @property
    def _reason(self) -> str:
        return "" if self.light is None or self.light.p_value > LEVEL else f": they are {self.light} on average"


class PartLot:
    """Counts the images of a lot, or of one of its groups, as their scores arrive; it holds a few numbers."""

    def __init__(self, part: Decision) -> None:
        self.part, self.light = part, LightCount(part)
        self.n_images = self.n_above = 0

    def add(self, scores: Scores, brightness: Scores | None) -> None:
        """Count images with these scores (N,) and this brightness (N,), where it is known."""
        self.n_images += len(scores)
        if self.part.calibration_scores.size:
            self.n_above += int((self.part.ranks(scores) <= max_rank_above(compared_units(self.part))).sum())
        self.light.add(scores, brightness)

    @property
    def is_testable(self) -> bool:
        """Whether there are enough images, and calibration images."""
        return self.n_images >= MIN_IMAGES and bool(self.part.calibration_scores.size)

    def test(self, max_anomalous: float, n_tests: int) -> LotTest:
        """The result, as one of `n_tests`: the smaller p-value of scores and light counts, times two (Bonferroni)."""
        p_value = lot_p_value(self.n_above, self.n_images, independent_units(self.part), max_anomalous)
        light = self.light.test(max_anomalous)
        if light is not None:
            p_value = 2 * (min(p_value, light.p_value) if light.counts else p_value)
        return LotTest(self.n_images, min(1.0, n_tests * p_value), max_anomalous, light=light)


class Lot:
    """Counts the images of a lot as their scores arrive, and tests the lot.

    Raises:
        SettingsError: `max_anomalous` is not from 0 to below 1.
    """

    def __init__(self, decisions: GroupedDecision, max_anomalous: float = DEFAULT_MAX_ANOMALOUS) -> None:
        max_anomalous_images(0, max_anomalous)  # only to raise its error
        self.decisions, self.max_anomalous = decisions, max_anomalous
        self.parts = {name: PartLot(part) for name, part in decisions.parts.items()}

    def add(self, scores: npt.ArrayLike, groups: Sequence[str] = (), brightness: Scores | None = None) -> None:
        """Count images with these scores (N,); `groups` has each image's group, where there are groups.

        `brightness` (N,) has the mean of each image in 0..1. Without it, or where it is NaN, only scores are tested.

        Raises:
            CalibrationError: a score is NaN.
            StateError, SettingsError: as the methods of `GroupedDecision` that take groups.
        """
        checked, names = check_scores(scores, "score"), np.array(groups, dtype=object)
        self.decisions.check_images(len(checked), groups)
        for name, part in self.parts.items():
            rows = names == name if self.decisions.grouped else slice(None)
            part.add(checked[rows], None if brightness is None else brightness[rows])

    def test(self) -> LotTest | None:
        """The result; None where fewer than `MIN_IMAGES` images can be tested, or there are no calibration images.

        Each group is a lot of its own; those with fewer images are in `untested_groups`.
        """
        testable = {name: part for name, part in self.parts.items() if part.is_testable}
        tests = {name: part.test(self.max_anomalous, len(testable)) for name, part in testable.items()}
        if not tests:
            return None
        if not self.decisions.grouped:
            return tests[UNGROUPED]
        smallest = min(test.p_value for test in tests.values())
        untested = {name: part.n_images for name, part in self.parts.items() if part.n_images and name not in tests}
        n_images = sum(test.n for test in tests.values())
        return LotTest(n_images, smallest, self.max_anomalous, tests, untested)


def guaranteed_rate(decisions: GroupedDecision, fdr: float | None = None) -> str:
    """What a detector guarantees, for `LotTest.warnings`: its false-alarm rate, or the false discovery rate `fdr`."""
    if fdr is not None:
        return f"the false discovery rate of {format_percent(fdr)}"
    return f"the false-alarm rate of {format_percent(float(f'{decisions.false_alarm_rate:.3g}'))}"
