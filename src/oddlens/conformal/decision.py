"""What turns anomaly scores into verdicts, made from one set of calibration images; NumPy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings
from oddlens.conformal.ranks import (
    DEFAULT_CONFIDENCE,
    DEFAULT_RATE,
    Scores,
    benjamini_hochberg_rank,
    check_scores,
    fold_p_values,
    format_percent,
    min_calibration_size,
    min_false_alarm_rate,
    min_rejections,
    n_images,
    p_values,
    ranks_among,
    realized_rate_interval,
    threshold_rank,
)
from oddlens.errors import CalibrationError, SettingsError, StateError


@dataclass(frozen=True, eq=False)
class Decision:
    """Everything that turns an anomaly score into a verdict.

    `calibration_scores` (n,) come from held-out normal images and are kept sorted; `training_scores`
    (m,) come from the images trained on. Either may be empty; both become read-only copies in float64. With `folds`
    above 1, every score tells by itself how many of the n images are at or above it, each scored out of its fold
    (`models.crossfit`), and the promise is that of cross-conformal prediction.

    Raises:
        CalibrationError: a score is NaN (infinite ones are allowed and sort last).
    """

    settings: DecisionSettings
    calibration_scores: Scores
    training_scores: Scores
    folds: int = 1

    def __post_init__(self) -> None:
        if self.folds > 1 and self.settings.confidence is not None:
            raise SettingsError(
                "a calibration in folds promises a rate on average only; leave the confidence out (--on-average), or "
                "run `oddlens calibrate` with new normal images"
            )
        if self.folds > 1 and self.settings.method == "train_percentile":
            raise SettingsError("a detector in folds scores no image that it learned: there is no percentile of those")
        for name, scores in (
            ("calibration_scores", np.sort(check_scores(self.calibration_scores, "calibration score"))),
            ("training_scores", check_scores(self.training_scores, "training score").copy()),
        ):
            scores.setflags(write=False)
            object.__setattr__(self, name, scores)

    @property
    def false_alarm_rate(self) -> float:
        """The rate asked for; without one, 1% where it can be promised, else the smallest that can.

        For `train_percentile` it is the share of scores above the percentile, asked for or not.

        Raises:
            StateError: none was asked for, and conformal has no calibration images to choose by.
        """
        if self.settings.false_alarm_rate is not None:
            return self.settings.false_alarm_rate
        if self.settings.method == "train_percentile":
            return float((100 - Decimal(str(self.settings.train_percentile))) / 100)
        return max(DEFAULT_RATE, min_false_alarm_rate(self._n_calibration(), self.settings.confidence, self.folds))

    @property
    def threshold(self) -> float:
        """The threshold of the method in the settings; a score above it is an anomaly, an equal one normal.

        Raises:
            StateError: the scores that the method needs are not there.
            CalibrationError: the calibration images cannot promise the rate asked for.
        """
        if self.settings.method == "conformal":
            return float(self.calibration_scores[self._conformal_rank() - 1])
        if self.percentile_threshold is None:
            raise StateError("the training percentile needs training scores and there are none: fit the detector again")
        return self.percentile_threshold

    @property
    def conformal_threshold(self) -> float | None:
        """The threshold that keeps the false-alarm rate; None where the calibration images allow none."""
        try:
            return float(self.calibration_scores[self._conformal_rank() - 1])
        except (StateError, CalibrationError):
            return None

    @property
    def percentile_threshold(self) -> float | None:
        """The seeds' threshold, a percentile of the training scores; None without training scores."""
        scores = self.training_scores
        if not scores.size:
            return None
        # between a number and infinity there is nothing to interpolate, only NaN
        method: Literal["linear", "higher"] = "linear" if np.isfinite(scores).all() else "higher"
        return float(np.percentile(scores, self.settings.train_percentile, method=method))

    def p_values(self, scores: npt.ArrayLike) -> Scores:
        """Conformal p-values (N,) of the scores (N,); NaN where there are no calibration images."""
        if not self.calibration_scores.size:
            return np.full(check_scores(scores, "score").shape, np.nan)
        if self.folds > 1:
            return fold_p_values(self.ranks(scores), len(self.calibration_scores), self.folds)
        return p_values(self.calibration_scores, scores)

    def ranks(self, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(N,) whole numbers: 1 + how many of the n calibration scores are at or above each score.

        Raises:
            StateError: there are no calibration images.
        """
        self._n_calibration()  # or there is nothing to rank among
        return ranks_among(self.calibration_scores, scores)

    def discovery_threshold(self, scores: npt.ArrayLike, rate: float) -> float:
        """The threshold above which, among these images' scores (N,), at most `rate` are normal on average.

        It depends on all the scores: the more of them lie far out, the lower it is. Infinite where none is flagged.

        Raises:
            StateError: there are no calibration images.
        """
        return self.threshold_at_rank(benjamini_hochberg_rank(self.ranks(scores), self._n_calibration(), rate))

    def threshold_at_rank(self, rank: int) -> float:
        """The threshold above which the scores of this rank (see `ranks`) and of smaller ones lie; infinite for 0."""
        n = self._n_calibration()
        if rank == 0:
            return math.inf
        return float(self.calibration_scores[n - rank]) if rank <= n else -math.inf

    def too_few_for(self, count: int, rate: float) -> str | None:
        """What limits `discovery_threshold` among `count` images; None where a single one can be flagged."""
        n = int(self.calibration_scores.size)
        fewest = min_rejections(count, n, rate)
        if fewest <= 1:
            return None
        if fewest > count:
            return (
                f"{n} calibration images are too few for a false discovery rate of {rate:g}: no image can be flagged, "
                f"however odd; it takes at least {min_rejections(1, 0, rate) - 1} (oddlens calibrate)"
            )
        alone = min_rejections(count, 0, rate) - 1
        return (
            f"with {n} calibration images and {count} to judge, a false discovery rate of {rate:g} flags none unless "
            f"{fewest} of them lie beyond all calibration scores; a single one can be flagged from {alone} calibration "
            "images on"
        )

    def labels(self, scores: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Scores (N,) -> labels (N,): 1 (anomaly) above the threshold, else 0 (normal)."""
        return (check_scores(scores, "score") > self.threshold).astype(np.int8)

    def promise(self) -> str:
        """One sentence: what the threshold promises about new normal images, and on what grounds.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        if self.settings.method == "train_percentile":
            return self._no_promise()
        rank, n, confidence = self._conformal_rank(), self._n_calibration(), self.settings.confidence
        if self.threshold == math.inf:
            return f"No image can be flagged: the threshold, the score at rank {rank} of {n_images(n)}, is infinite."
        rate = format_percent(self.false_alarm_rate)
        if self.settings.false_alarm_rate is None and self.false_alarm_rate > DEFAULT_RATE:
            rate = f"{format_percent(self.false_alarm_rate, 2, ROUND_CEILING)} (the smallest that can be promised)"
        sure = "on average over calibrations" if confidence is None else f"with {format_percent(confidence)} confidence"
        calibration_images = n_images(n, self.folds)
        told = f"At most {rate} of normal images are flagged, {sure}, as long as they are like the {calibration_images}"
        if self.folds > 1:
            return f"{told} (a bound that is seldom reached: cross-conformal)."
        low, high = (format_percent(end, 3) for end in realized_rate_interval(n, rank))
        return f"{told}; the realised rate lies between {low} and {high} in 95% of such calibrations."

    def summary_lines(self) -> list[str]:
        """What the decision promises and, where there are calibration images, the best that they can: sentences.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        return [self.promise(), *([self.calibration_capacity()] if self.calibration_scores.size else [])]

    def calibration_capacity(self) -> str:
        """One sentence: the best that these calibration images can promise, and what a stricter promise takes.

        Raises:
            StateError: there are no calibration images, or no rate was asked for and none can be chosen.
        """
        n, stricter = self._n_calibration(), self.stricter_rate
        best = format_percent(min_false_alarm_rate(n, folds=self.folds), 2, ROUND_CEILING)
        confident_rate = format_percent(min_false_alarm_rate(n, DEFAULT_CONFIDENCE), 2, ROUND_CEILING)
        sure = f", {confident_rate} with {format_percent(DEFAULT_CONFIDENCE)} confidence"
        needed = min_calibration_size(stricter, self.settings.confidence, self.folds)
        more = f"takes {needed}, {needed - n} more" if needed > n else f"takes {needed}: change it without training"
        asked = (
            "" if self.settings.confidence is None else f" with {format_percent(self.settings.confidence)} confidence"
        )
        return (
            f"{n_images(n, self.folds)} can promise {best} at best on average{sure if self.folds == 1 else ''}; "
            f"{format_percent(stricter)}{asked} {more}."
        )

    @property
    def stricter_rate(self) -> float:
        """Half of the present false-alarm rate: the next one to think of."""
        return float(Decimal(str(self.false_alarm_rate)) / 2)

    def guarantee(self) -> dict[str, object]:
        """What `promise` and `calibration_capacity` say, in numbers: for JSON.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        n, confidence = int(self.calibration_scores.size), self.settings.confidence
        promised = self.settings.method == "conformal"
        return {
            "kind": "none" if not promised else "on average" if confidence is None else "with confidence",
            "confidence": confidence,
            "false_alarm_rate": self.false_alarm_rate,
            "realised_range": list(realized_rate_interval(n, self._conformal_rank()))
            if promised and self.folds == 1
            else None,
            "smallest_rate": min_false_alarm_rate(n, confidence, self.folds) if n else None,
            "stricter_rate": self.stricter_rate,
            "more_images_for_it": max(0, min_calibration_size(self.stricter_rate, confidence, self.folds) - n),
        }

    def _no_promise(self) -> str:
        about = f"The threshold is percentile {self.settings.train_percentile:g} of the training scores"
        if not self.calibration_scores.size:
            return f"{about}, which promises nothing."
        flagged = format_percent(float(np.mean(self.calibration_scores > self.threshold)), 3)
        return f"{about}, which promises nothing; it flags {flagged} of {n_images(self._n_calibration())}."

    def _conformal_rank(self) -> int:
        return threshold_rank(self._n_calibration(), self.false_alarm_rate, self.settings.confidence, self.folds)

    def _n_calibration(self) -> int:
        if not self.calibration_scores.size:
            raise StateError(
                "a conformal threshold needs held-out normal images and there are none: "
                "run calibrate with normal images that were not trained on"
            )
        return int(self.calibration_scores.size)
