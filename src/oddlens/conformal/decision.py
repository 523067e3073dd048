"""The decision that converts anomaly scores into verdicts, from one set of calibration images; NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import Literal

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings
from oddlens.conformal.calibration_scores import NO_CLUSTERS, CalibrationScores, Clusters
from oddlens.conformal.ranks import (
    DEFAULT_RATE,
    Scores,
    benjamini_hochberg_rank,
    check_scores,
    format_percent,
    min_rejections,
    ranks_from_top,
)
from oddlens.conformal.schemes import HELD_OUT, CalibrationScheme
from oddlens.errors import CalibrationError, SettingsError, StateError


@dataclass(frozen=True, eq=False)
class Decision:
    """Convert anomaly scores into p-values, labels and thresholds.

    `calibration_scores` (n,) come from held-out normal images and are stored sorted; `training_scores` (m,) come from
    the training images. Either may be empty; both become read-only float64 copies. `clusters` (n,) numbers the groups
    of near-duplicates among the calibration images, where groups are counted instead of images. With another `scheme`,
    the n images are training images, each scored without itself or without its fold, and the guarantee is that of the
    scheme. `brightness` (u,), sorted, is that of the calibration images, of one of each group; empty where it is not
    known.

    Raises:
        CalibrationError: a score is NaN (infinite scores are allowed and sort last).
        SettingsError: a scheme other than held-out images is combined with a confidence, or folds with the training
            percentile.

    Example:
        >>> import numpy as np
        >>> from oddlens import Decision, DecisionSettings
        >>> decision = Decision(DecisionSettings(false_alarm_rate=0.1), np.arange(1.0, 20.0), np.empty(0))
        >>> decision.threshold, decision.labels([18.0, 18.5]).tolist(), decision.p_values([18.5]).tolist()
        (18.0, [0, 1], [0.1])
    """

    settings: DecisionSettings
    calibration_scores: Scores
    training_scores: Scores
    scheme: CalibrationScheme = HELD_OUT
    clusters: Clusters = field(default_factory=lambda: NO_CLUSTERS)
    brightness: Scores = field(default_factory=lambda: np.empty(0))
    calibration: CalibrationScores = field(init=False)

    def __post_init__(self) -> None:
        if not self.scheme.is_held_out and self.settings.confidence is not None:
            how = "in folds (cross-conformal)" if self.scheme.name == "folds" else "by leave-one-out"
            raise SettingsError(
                f"a calibration {how} guarantees a rate on average only, not with a confidence; "
                "omit the confidence (--on-average) or run `oddlens calibrate` with new normal images"
            )
        if self.scheme.name == "folds" and self.settings.method == "train_percentile":
            raise SettingsError(
                "a detector calibrated in folds (cross-conformal) has no training scores, so no training percentile; "
                "use the method conformal"
            )
        calibration = CalibrationScores(self.calibration_scores, self.clusters, self.scheme)
        training = check_scores(self.training_scores, "training score").copy()
        training.setflags(write=False)
        for name, value in (
            ("calibration", calibration),
            ("calibration_scores", calibration.scores),
            ("clusters", calibration.clusters),
            ("training_scores", training),
        ):
            object.__setattr__(self, name, value)

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
        return self.calibration.default_rate(self.settings.confidence)

    @property
    def threshold(self) -> float:
        """The threshold of the method in the settings; a score above it is an anomaly, an equal score is normal.

        Raises:
            StateError: the scores that the method needs are missing.
            CalibrationError: the calibration images cannot guarantee the requested rate.
        """
        if self.settings.method == "conformal":
            return self._conformal_threshold()
        if self.percentile_threshold is None:
            raise StateError("a training percentile needs training scores, and there are none: fit the detector again")
        return self.percentile_threshold

    @property
    def conformal_threshold(self) -> float | None:
        """The conformal threshold for the false-alarm rate; None if the calibration images allow none."""
        try:
            return self._conformal_threshold()
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
        return self.calibration.p_values(scores)

    def ranks(self, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Ranks (N,): 1 + the number of calibration scores at or above each score (N,).

        Of each group of near-duplicates, the score of one image counts.

        Raises:
            StateError: there are no calibration images.
        """
        self.calibration.count  # noqa: B018 - raises if there are none
        return ranks_from_top(self.calibration.one_per_group, scores)

    def discovery_threshold(self, scores: npt.ArrayLike, rate: float) -> float:
        """Threshold that controls the false discovery rate among the images with these scores (N,).

        On average, at most `rate` of the images flagged above it are normal. It depends on all the scores: the more of
        them are extreme, the lower it is. It is infinite if no image is flagged.

        Raises:
            StateError: there are no calibration images.
            SettingsError: they were used for training.
        """
        return self.threshold_at_rank(benjamini_hochberg_rank(self.ranks(scores), self.calibration.count, rate))

    def threshold_at_rank(self, rank: int) -> float:
        """Threshold that flags the scores whose rank (see `ranks`) is at most `rank`; infinite for rank 0."""
        scores = self.calibration.independent
        if rank == 0:
            return math.inf
        return float(scores[len(scores) - rank]) if rank <= len(scores) else -math.inf

    def fdr_warning(self, count: int, rate: float) -> str | None:
        """Describe what limits `discovery_threshold` for `count` images; None if a single image can be flagged."""
        n = self.calibration.n_clusters
        unit = "groups of near-duplicates" if self.calibration.is_clustered else "images"
        required = min_rejections(count, n, rate)
        if required <= 1:
            return None
        if required > count:
            return (
                f"{n} calibration {unit} are too few for a false discovery rate of {rate:g}: no image can be flagged, "
                f"however anomalous; calibrate with at least {min_rejections(1, 0, rate) - 1} (oddlens calibrate)"
            )
        n_for_one = min_rejections(count, 0, rate) - 1
        return (
            f"with {n} calibration {unit}, a false discovery rate of {rate:g} flags none of the {count} images unless "
            f"at least {required} of them score above all calibration images; to flag single images, calibrate with at "
            f"least {n_for_one} {unit}"
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
        threshold, confidence, calibration = self.threshold, self.settings.confidence, self.calibration
        if threshold == math.inf:
            return f"No image can be flagged: the threshold, a score of the {calibration.description}, is infinite."
        rate = format_percent(self.false_alarm_rate)
        if self.settings.false_alarm_rate is None and self.false_alarm_rate > DEFAULT_RATE:
            lowest = format_percent(self.false_alarm_rate, 2, ROUND_CEILING)
            rate = f"{lowest} (the lowest rate that can be guaranteed)"
        scope = (
            "on average over calibration sets"
            if confidence is None
            else f"with {format_percent(confidence)} confidence"
        )
        new = "normal images of new parts" if calibration.is_clustered else "normal images"
        guarantee = (
            f"At most {rate} of {new} are flagged, {scope}, provided they resemble the {calibration.description}"
        )
        return f"{guarantee}{self._promise_detail()}."

    def _promise_detail(self) -> str:
        """What else there is to know about a conformal guarantee, as the end of its sentence."""
        if self.scheme.name == "folds":
            return " (a conservative cross-conformal bound, seldom reached)"
        if not self.scheme.is_held_out:
            return f"; the bound is {self.scheme.bound} for images that lose to at most c"
        interval = self.calibration.realized_interval(self.false_alarm_rate, self.settings.confidence)
        if interval is None:
            return "" if self.settings.confidence is None else "; each group counts by its largest score"
        low, high = (format_percent(bound, 3) for bound in interval)
        return f"; the realized rate is between {low} and {high} for 95% of calibration sets"

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
        return self.calibration.capacity(self.stricter_rate, self.settings.confidence)

    @property
    def stricter_rate(self) -> float:
        """Half of the current false-alarm rate: the next rate to consider."""
        return float(Decimal(str(self.false_alarm_rate)) / 2)

    def guarantee(self) -> dict[str, object]:
        """The facts of `promise` and `calibration_capacity` as numbers, for JSON.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        calibration, rate, confidence = self.calibration, self.false_alarm_rate, self.settings.confidence
        is_guaranteed = self.settings.method == "conformal"
        interval = calibration.realized_interval(rate, confidence) if is_guaranteed else None
        return {
            "kind": "none" if not is_guaranteed else "on average" if confidence is None else "with confidence",
            "confidence": confidence,
            "false_alarm_rate": rate,
            "calibration": self.scheme.name,
            "bound": self.scheme.bound if is_guaranteed and confidence is None else None,
            "calibration_groups": calibration.n_clusters if calibration.is_clustered else None,
            "realised_range": None if interval is None else list(interval),
            "smallest_rate": calibration.min_rate(confidence) if len(calibration) else None,
            "stricter_rate": self.stricter_rate,
            "more_images_for_it": calibration.n_missing(self.stricter_rate, confidence),
        }

    def _percentile_sentence(self) -> str:
        sentence = (
            f"The threshold is percentile {self.settings.train_percentile:g} of the training scores (no guarantee)"
        )
        if not self.calibration_scores.size:
            return f"{sentence}."
        flagged = format_percent(float(np.mean(self.calibration_scores > self.threshold)), 3)
        return f"{sentence}; it flags {flagged} of {self.calibration.description}."

    def _conformal_threshold(self) -> float:
        return self.calibration.threshold(self.false_alarm_rate, self.settings.confidence)
