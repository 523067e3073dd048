"""Calibration scores and what they guarantee: p-values, thresholds and rates, counted by image or by group; NumPy only.

Photographs of one part are not independent evidence. Where groups of near-duplicates exist, each has weight one in all:
an image in a group of m counts 1/m (hierarchical conformal prediction: Lee, Barber & Willett, "Distribution-free
inference with hierarchical data", 2023). A bound on false alarms then holds for an image of a new group, such as a new
part. All weights are integer multiples of one unit, so that nothing is rounded.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import (
    DEFAULT_CONFIDENCE,
    DEFAULT_RATE,
    Scores,
    check_scores,
    format_percent,
    max_losses,
    min_calibration_size,
    min_false_alarm_rate,
    realized_rate_interval,
    threshold_rank,
)
from oddlens.conformal.schemes import HELD_OUT, CalibrationScheme
from oddlens.errors import SettingsError, StateError

Clusters = npt.NDArray[np.integer[Any]]
NO_CLUSTERS: Clusters = np.empty(0, dtype=np.uint64)


class CalibrationScores:
    """Scores (n,) of calibration images, sorted, and the scheme in which they were computed.

    `clusters` (n,) numbers the groups of near-duplicates that are counted; empty, or where each image is alone, images
    are counted.

    Raises:
        CalibrationError: a score is NaN (infinite scores are allowed and sort last).
    """

    def __init__(
        self, scores: npt.ArrayLike, clusters: Clusters = NO_CLUSTERS, scheme: CalibrationScheme = HELD_OUT
    ) -> None:
        unsorted = check_scores(scores, "calibration score")
        order = np.argsort(unsorted, kind="stable")
        self.scores: Scores = unsorted[order]
        self.scores.setflags(write=False)
        self.scheme = scheme
        self.clusters = clusters[order] if len(np.unique(clusters)) < len(clusters) else NO_CLUSTERS
        _, cluster_of, sizes = np.unique(self.clusters, return_inverse=True, return_counts=True)
        self.n_clusters = len(sizes) or len(self.scores)
        self.unit = math.lcm(*sizes.tolist())  # the weight of a group in units; 1 where images are counted
        weights = (self.unit // sizes.astype(object))[cluster_of.ravel()] if self.is_clustered else 1
        ascending = np.zeros(len(self.scores) + 1, dtype=object if self.is_clustered else np.int64)
        ascending[1:] = np.cumsum(np.broadcast_to(weights, len(self.scores))[::-1])
        self.mass = ascending  # (n + 1,) weight in units of the 0, 1, ... n largest scores

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def is_clustered(self) -> bool:
        """Whether groups of near-duplicates are counted instead of images."""
        return bool(len(self.clusters))

    @property
    def count(self) -> int:
        """Number of groups that are counted, or of images.

        Raises:
            StateError: there are none.
        """
        if not len(self.scores):
            raise StateError(
                "a conformal threshold needs held-out normal images, and there are none: "
                "run calibrate with normal images that were not used for training"
            )
        return self.n_clusters

    @cached_property
    def largest(self) -> Scores:
        """The largest score of each group (G,), sorted; those of all images where images are counted."""
        if not self.is_clustered:
            return self.scores
        _, cluster_of = np.unique(self.clusters, return_inverse=True)
        largest = np.full(self.n_clusters, -math.inf)
        np.maximum.at(largest, cluster_of.ravel(), self.scores)
        return np.sort(largest)

    @cached_property
    def one_per_group(self) -> Scores:
        """The score of one image of each group (G,), drawn at random, sorted; of all where images are counted.

        The scores seed the draw: it stays the same for one calibration and is another one for the next.
        """
        if not self.is_clustered:
            return self.scores
        order = np.random.default_rng(self.scores.view(np.uint32)).permutation(len(self.scores))
        _, first = np.unique(self.clusters[order], return_index=True)
        return np.sort(self.scores[order[first]])

    @property
    def independent(self) -> Scores:
        """`one_per_group`, which is exchangeable with the scores of new images of different parts.

        The false discovery rate and the tests for drift need this.

        Raises:
            SettingsError: the calibration images were used for training.
        """
        if not self.scheme.is_held_out:
            how = "in folds" if self.scheme.name == "folds" else "by leave-one-out"
            raise SettingsError(
                "drift and the false discovery rate need calibration images that the detector was not trained on, and "
                f"this one was calibrated {how}: run `oddlens calibrate` with new normal images"
            )
        return self.one_per_group

    # -- rates ------------------------------------------------------------------------------------

    def p_values(self, scores: npt.ArrayLike) -> Scores:
        """P-values (N,) of scores (N,), at most 1; a normal image has p <= a with a probability of at most a."""
        below = np.searchsorted(self.scores, check_scores(scores, "score"), side="left")
        losses = self.mass[len(self.scores) - below]
        scheme, denominator = self.scheme, (self.count + self.scheme.extra) * self.unit
        values: Scores = ((scheme.slope * losses + scheme.offset * self.unit) / denominator).astype(np.float64)
        return np.minimum(1.0, values)

    def threshold(self, rate: float, confidence: float | None) -> float:
        """The threshold that flags at most `rate` of new normal images, on average or with `confidence`.

        With a confidence, each group counts by its largest score, which is conservative.

        Raises:
            StateError: there are no calibration images.
            CalibrationError: they cannot guarantee the rate.
        """
        rank = self.rank(rate, confidence)
        if confidence is not None:
            return float(self.largest[rank - 1])
        allowed = math.floor(max_losses(self.count, rate, self.scheme) * self.unit)
        n_above = int(np.searchsorted(self.mass, allowed, side="right")) - 1
        return float(self.scores[len(self.scores) - 1 - min(n_above, len(self.scores) - 1)])

    def rank(self, rate: float, confidence: float | None) -> int:
        """Rank of the threshold among the largest scores of the groups, or among all scores.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        return threshold_rank(self.count, rate, confidence, self.scheme, self._n_images)

    def min_rate(self, confidence: float | None = None) -> float:
        """Lowest false-alarm rate that can be guaranteed.

        Raises:
            StateError: there are no calibration images.
        """
        return min_false_alarm_rate(self.count, confidence, self.scheme)

    def n_missing(self, rate: float, confidence: float | None = None) -> int:
        """Number of calibration images, or groups, that are missing to guarantee the rate."""
        return max(0, min_calibration_size(rate, confidence, self.scheme) - self.n_clusters)

    def realized_interval(self, rate: float, confidence: float | None) -> tuple[float, float] | None:
        """Interval of the realized rate for 95% of calibration sets; None where it is not known: not by image."""
        if self.is_clustered or not self.scheme.is_held_out:
            return None
        return realized_rate_interval(self.count, self.rank(rate, confidence))

    # -- sentences --------------------------------------------------------------------------------

    @property
    def description(self) -> str:
        """How many images there are, of what kind, and how they are counted."""
        return self.scheme.format_count(self.n_clusters, self._n_images)

    def capacity(self, stricter: float, confidence: float | None) -> str:
        """One sentence: the lowest rate that can be guaranteed, and what a stricter one needs."""
        on_average = format_percent(self.min_rate(), 2, ROUND_CEILING)
        text = f"{self.description} can guarantee {on_average} at best on average"
        if self.scheme.is_held_out:
            confident = format_percent(self.min_rate(DEFAULT_CONFIDENCE), 2, ROUND_CEILING)
            text += f", or {confident} with {format_percent(DEFAULT_CONFIDENCE)} confidence"
        with_confidence = "" if confidence is None else f" with {format_percent(confidence)} confidence"
        needed = min_calibration_size(stricter, confidence, self.scheme)
        missing = self.n_missing(stricter, confidence)
        gap = f", {missing} more" if missing else " and can be set without retraining"
        unit = "groups" if self.is_clustered else "images"
        rate = format_percent(float(f"{stricter:.2g}"))
        return f"{text}; {rate}{with_confidence} needs {needed} {unit}{gap}."

    def default_rate(self, confidence: float | None) -> float:
        """1%, or the lowest rate above it that can be guaranteed.

        Raises:
            StateError: there are no calibration images.
        """
        return max(DEFAULT_RATE, self.min_rate(confidence))

    @property
    def _n_images(self) -> int | None:
        return len(self.scores) if self.is_clustered else None
