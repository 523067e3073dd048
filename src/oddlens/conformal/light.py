"""Whether a lot is brighter or darker than the calibration images, so that they say little about it; NumPy only.

A lamp that ages changes the scores of some images more than those of others: the median of the scores may stay where it
was while false alarms rise. The brightness of an image is the mean of its pixels, so that it shows what the scores do
not. Families tolerate some change of light, so that it only counts where many images are flagged as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddlens.conformal.decision import Decision
from oddlens.conformal.exceedance import lot_p_value, max_rank_above
from oddlens.conformal.ranks import Scores, ranks_from_top

MANY_FLAGGED = 3.0  # times the guaranteed rate, above which a change of light counts
MIN_BRIGHTNESS = 1e-6  # of calibration images that are all black
STEPS = 2**32  # in 1, so that sums of brightness are exact, and the same in any order


@dataclass(frozen=True)
class LightTest:
    """How the brightness of a lot differs from that of the calibration images; `LotTest.light`.

    Attributes:
        p_value: probability of at least this difference by chance.
        change: mean brightness of the lot relative to that of the calibration images, minus 1.
        counts: whether so many images of the lot are flagged that the difference counts.
    """

    p_value: float
    change: float
    counts: bool

    def as_json(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"p_value": self.p_value, "change": self.change}

    def __str__(self) -> str:
        """What the images are, as in "6.8% brighter"."""
        return f"{abs(self.change):.1%} {'brighter' if self.change > 0 else 'darker'}"


class LightCount:
    """Counts the images of a lot that are brighter, and darker, than the median of the calibration images.

    It counts nothing where the brightness of the calibration images, or of an image of the lot, is not known.
    """

    def __init__(self, part: Decision) -> None:
        threshold, self.units = part.conformal_threshold, part.brightness
        self.is_complete = bool(len(self.units)) and threshold is not None
        self.threshold = math.inf if threshold is None else threshold
        self.max_flagged = MANY_FLAGGED * part.false_alarm_rate if self.is_complete else 0.0
        self.n_images = self.n_flagged = self.n_brighter = self.n_darker = 0
        self.total = 0

    def add(self, scores: Scores, brightness: Scores | None) -> None:
        """Count images with these scores (N,) and this brightness (N,), NaN where it is not known."""
        if not len(scores) or not self.is_complete:
            return
        if brightness is None or np.isnan(brightness).any():
            self.is_complete = False
            return
        max_rank = max_rank_above(len(self.units))
        self.n_images += len(scores)
        self.n_flagged += int((scores > self.threshold).sum())
        self.n_brighter += int((ranks_from_top(self.units, brightness) <= max_rank).sum())
        self.n_darker += int((ranks_from_top(-self.units[::-1], -brightness) <= max_rank).sum())
        self.total += int(np.rint(brightness * STEPS).astype(np.int64).sum())

    def test(self, max_anomalous: float) -> LightTest | None:
        """The result, where at most the share `max_anomalous` of the images is anomalous; None where nothing is known.

        Each side has a p-value like that of the scores, and is tested at half the level.
        """
        if not self.is_complete or not self.n_images:
            return None
        sides = (
            lot_p_value(count, self.n_images, len(self.units), max_anomalous)
            for count in (self.n_brighter, self.n_darker)
        )
        usual = max(MIN_BRIGHTNESS, float(self.units.mean()))
        return LightTest(
            p_value=min(1.0, 2 * min(sides)),
            change=self.total / STEPS / self.n_images / usual - 1,
            counts=self.n_flagged > self.max_flagged * self.n_images,
        )
