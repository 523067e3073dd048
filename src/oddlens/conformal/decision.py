"""The decision that converts anomaly scores into verdicts, from one set of calibration images; NumPy only."""

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
    format_image_count,
    format_percent,
    min_calibration_size,
    min_false_alarm_rate,
    min_rejections,
    p_values,
    ranks_from_top,
    realized_rate_interval,
    threshold_rank,
)
from oddlens.errors import CalibrationError, SettingsError, StateError


@dataclass(frozen=True, eq=False)
class Decision:
    """Convert anomaly scores into p-values, labels and thresholds.

    `calibration_scores` (n,) come from held-out normal images and are stored sorted; `training_scores` (m,) come from
    the training images. Either may be empty; both become read-only float64 copies. With `folds` > 1 the calibration is
    cross-conformal: the n images were scored out of fold (`models.cross_conformal`), a score encodes how many of them
    are at or above it, and the guarantee is that of cross-conformal prediction.

    Raises:
        CalibrationError: a score is NaN (infinite scores are allowed and sort last).
        SettingsError: `folds` > 1 is combined with a confidence or with the training percentile.
    """

    settings: DecisionSettings
    calibration_scores: Scores
    training_scores: Scores
    folds: int = 1

    def __post_init__(self) -> None:
        if self.folds > 1 and self.settings.confidence is not None:
            raise SettingsError(
                "a calibration in folds (cross-conformal) guarantees a rate on average only, not with a confidence; "
                "omit the confidence (--on-average) or run `oddlens calibrate` with new normal images"
            )
        if self.folds > 1 and self.settings.method == "train_percentile":
            raise SettingsError(
                "a detector calibrated in folds (cross-conformal) has no training scores, so no training percentile; "
                "use the method conformal"
            )
        for name, scores in (
            ("calibration_scores", np.sort(check_scores(self.calibration_scores, "calibration score"))),
            ("training_scores", check_scores(self.training_scores, "training score").copy()),
        ):
            scores.setflags(write=False)
            object.__setattr__(self, name, scores)

    @property
    def false_alarm_rate(self) -> float:
        """The rate in the settings; without one, 1% or the lowest rate above it that can be guaranteed.

        For `train_percentile` without a rate, it is the share of training scores above the percentile.

        Raises:
            StateError: the settings have no rate, and conformal has no calibration images to determine one.
        """
        if self.settings.false_alarm_rate is not None:
            return self.settings.false_alarm_rate
        if self.settings.method == "train_percentile":
            return float((100 - Decimal(str(self.settings.train_percentile))) / 100)
        return max(DEFAULT_RATE, min_false_alarm_rate(self._n_calibration(), self.settings.confidence, self.folds))

    @property
    def threshold(self) -> float:
        """The threshold of the method in the settings; a score above it is an anomaly, an equal score is normal.

        Raises:
            StateError: the scores that the method needs are missing.
            CalibrationError: the calibration images cannot guarantee the requested rate.
        """
        if self.settings.method == "conformal":
            return float(self.calibration_scores[self._conformal_rank() - 1])
        if self.percentile_threshold is None:
            raise StateError("a training percentile needs training scores, and there are none: fit the detector again")
        return self.percentile_threshold

    @property
    def conformal_threshold(self) -> float | None:
        """The conformal threshold for the false-alarm rate; None if the calibration images allow none."""
        try:
            return float(self.calibration_scores[self._conformal_rank() - 1])
        except (StateError, CalibrationError):
            return None

    @property
    def percentile_threshold(self) -> float | None:
        """The reference recipes' threshold, a percentile of the training scores; None without training scores."""
        scores = self.training_scores
        if not scores.size:
            return None
        # interpolation between a number and infinity would give NaN
        method: Literal["linear", "higher"] = "linear" if np.isfinite(scores).all() else "higher"
        return float(np.percentile(scores, self.settings.train_percentile, method=method))

    def p_values(self, scores: npt.ArrayLike) -> Scores:
        """Conformal p-values (N,) of the scores (N,); NaN without calibration images."""
        if not self.calibration_scores.size:
            return np.full(check_scores(scores, "score").shape, np.nan)
        if self.folds > 1:
            return fold_p_values(self.ranks(scores), len(self.calibration_scores), self.folds)
        return p_values(self.calibration_scores, scores)

    def ranks(self, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Ranks (N,): 1 + the number of the n calibration scores at or above each score (N,).

        Raises:
            StateError: there are no calibration images.
        """
        self._n_calibration()  # raises if there are none
        return ranks_from_top(self.calibration_scores, scores)

    def discovery_threshold(self, scores: npt.ArrayLike, rate: float) -> float:
        """Threshold that controls the false discovery rate among the images with these scores (N,).

        On average, at most `rate` of the images flagged above it are normal. It depends on all the scores: the more of
        them are extreme, the lower it is. It is infinite if no image is flagged.

        Raises:
            StateError: there are no calibration images.
        """
        return self.threshold_at_rank(benjamini_hochberg_rank(self.ranks(scores), self._n_calibration(), rate))

    def threshold_at_rank(self, rank: int) -> float:
        """Threshold that flags the scores whose rank (see `ranks`) is at most `rank`; infinite for rank 0."""
        n = self._n_calibration()
        if rank == 0:
            return math.inf
        return float(self.calibration_scores[n - rank]) if rank <= n else -math.inf

    def fdr_warning(self, count: int, rate: float) -> str | None:
        """Describe what limits `discovery_threshold` for `count` images; None if a single image can be flagged."""
        n = int(self.calibration_scores.size)
        required = min_rejections(count, n, rate)
        if required <= 1:
            return None
        if required > count:
            return (
                f"{n} calibration images are too few for a false discovery rate of {rate:g}: no image can be flagged, "
                f"however anomalous; calibrate with at least {min_rejections(1, 0, rate) - 1} (oddlens calibrate)"
            )
        n_for_one = min_rejections(count, 0, rate) - 1
        return (
            f"with {n} calibration images, a false discovery rate of {rate:g} flags none of the {count} images unless "
            f"at least {required} of them score above all calibration images; to flag single images, calibrate with at "
            f"least {n_for_one} images"
        )

    def labels(self, scores: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Labels (N,) for the scores (N,): 1 (anomaly) above the threshold, else 0 (normal)."""
        return (check_scores(scores, "score") > self.threshold).astype(np.int8)

    def promise(self) -> str:
        """One sentence: what the threshold guarantees for new normal images, and under which condition.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        if self.settings.method == "train_percentile":
            return self._percentile_sentence()
        rank, n, confidence = self._conformal_rank(), self._n_calibration(), self.settings.confidence
        calibration_images = format_image_count(n, self.folds)
        if self.threshold == math.inf:
            threshold = f"the score at rank {rank} of {calibration_images}"
            return f"No image can be flagged: the threshold, {threshold}, is infinite."
        rate = format_percent(self.false_alarm_rate)
        if self.settings.false_alarm_rate is None and self.false_alarm_rate > DEFAULT_RATE:
            lowest = format_percent(self.false_alarm_rate, 2, ROUND_CEILING)
            rate = f"{lowest} (the lowest rate that can be guaranteed)"
        scope = (
            "on average over calibration sets"
            if confidence is None
            else f"with {format_percent(confidence)} confidence"
        )
        guarantee = (
            f"At most {rate} of normal images are flagged, {scope}, provided they resemble the {calibration_images}"
        )
        if self.folds > 1:
            return f"{guarantee} (a conservative cross-conformal bound, seldom reached)."
        low, high = (format_percent(bound, 3) for bound in realized_rate_interval(n, rank))
        return f"{guarantee}; the realized rate is between {low} and {high} for 95% of calibration sets."

    def summary_lines(self) -> list[str]:
        """Sentences: the guarantee and, with calibration images, the strictest guarantee that they support.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        return [self.promise(), *([self.calibration_capacity()] if self.calibration_scores.size else [])]

    def calibration_capacity(self) -> str:
        """One sentence: the lowest rate that the calibration images can guarantee, and what a stricter rate needs.

        Raises:
            StateError: there are no calibration images.
        """
        n, stricter, confidence = self._n_calibration(), self.stricter_rate, self.settings.confidence
        on_average = format_percent(min_false_alarm_rate(n, folds=self.folds), 2, ROUND_CEILING)
        capacity = f"{format_image_count(n, self.folds)} can guarantee {on_average} at best on average"
        if self.folds == 1:
            confident = format_percent(min_false_alarm_rate(n, DEFAULT_CONFIDENCE), 2, ROUND_CEILING)
            capacity += f", or {confident} with {format_percent(DEFAULT_CONFIDENCE)} confidence"
        with_confidence = "" if confidence is None else f" with {format_percent(confidence)} confidence"
        needed = min_calibration_size(stricter, confidence, self.folds)
        gap = f", {needed - n} more" if needed > n else " and can be set without retraining"
        return f"{capacity}; {format_percent(stricter)}{with_confidence} needs {needed} images{gap}."

    @property
    def stricter_rate(self) -> float:
        """Half of the current false-alarm rate: the next rate to consider."""
        return float(Decimal(str(self.false_alarm_rate)) / 2)

    def guarantee(self) -> dict[str, object]:
        """The facts of `promise` and `calibration_capacity` as numbers, for JSON.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        n, confidence = int(self.calibration_scores.size), self.settings.confidence
        is_guaranteed = self.settings.method == "conformal"
        return {
            "kind": "none" if not is_guaranteed else "on average" if confidence is None else "with confidence",
            "confidence": confidence,
            "false_alarm_rate": self.false_alarm_rate,
            "realised_range": list(realized_rate_interval(n, self._conformal_rank()))
            if is_guaranteed and self.folds == 1
            else None,
            "smallest_rate": min_false_alarm_rate(n, confidence, self.folds) if n else None,
            "stricter_rate": self.stricter_rate,
            "more_images_for_it": max(0, min_calibration_size(self.stricter_rate, confidence, self.folds) - n),
        }

    def _percentile_sentence(self) -> str:
        sentence = (
            f"The threshold is percentile {self.settings.train_percentile:g} of the training scores (no guarantee)"
        )
        if not self.calibration_scores.size:
            return f"{sentence}."
        flagged = format_percent(float(np.mean(self.calibration_scores > self.threshold)), 3)
        return f"{sentence}; it flags {flagged} of {format_image_count(self._n_calibration())}."

    def _conformal_rank(self) -> int:
        return threshold_rank(self._n_calibration(), self.false_alarm_rate, self.settings.confidence, self.folds)

    def _n_calibration(self) -> int:
        if not self.calibration_scores.size:
            raise StateError(
                "a conformal threshold needs held-out normal images, and there are none: "
                "run calibrate with normal images that were not used for training"
            )
        return int(self.calibration_scores.size)
