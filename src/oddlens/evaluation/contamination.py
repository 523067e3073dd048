"""Contamination of normal images: how unusual each one is, scored by a detector that was not trained on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoSettings
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.splitting import split_groups
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from oddlens.training.history import Progress

MIN_IMAGES = 40  # with fewer images, half of them are too few to train on
MAX_SECONDS, SECONDS_PER_IMAGE, MIN_SECONDS = 120.0, 0.1, 10.0  # of the default training budget


def has_backbone() -> bool:
    """Whether the frozen backbone is installed, by which images are compared without training.

    Raises:
        MissingExtraError: training is not installed.
    """
    try:
        from oddlens.models.backbones.efficientnet_lite import is_installed
    except ImportError as error:
        raise MissingExtraError("fitting a detector", "train") from error
    return is_installed()


def default_budget(count: int) -> float:
    """Return the default budget for `count` images, in seconds: the backbone usually needs far less."""
    if has_backbone():
        return MAX_SECONDS
    return min(MAX_SECONDS, max(MIN_SECONDS, SECONDS_PER_IMAGE * count))


def anomaly_zscores(
    images: ImageSet, budget: float, seed: int = 0, progress: Progress | None = None
) -> npt.NDArray[np.float64]:
    """(N,) how unusual each image is among the others, in robust standard deviations of its half's scores.

    The images are split into two halves that share no near-duplicates. `auto` is trained on each half within half of
    the `budget` (seconds), in its mode that is robust to anomalies among the training images, and scores the other.

    Raises:
        DataError: the images are not usable, or too similar to be split into two halves.
        MissingExtraError: training needs packages that are not installed.
    """
    groups = near_duplicate_groups(thumbnails(images.load(images.choose_spec(None))))
    halves = split_groups(groups, [len(images) - len(images) // 2, len(images) // 2], seed)
    if min(len(half) for half in halves) < MIN_IMAGES // 2:
        raise DataError(
            f"the {len(images)} images cannot be split into two halves: too many are near-duplicates of each other; "
            "add images of other parts"
        )
    zscores = np.empty(len(images))
    for train, held_out in (halves, halves[::-1]):
        detector = Detector(AutoSettings(robust=True), training=TrainingSettings(seed=seed), budget=budget / 2)
        scores = detector.fit(images.subset(train), hold_out=False, progress=progress).score(images.subset(held_out))
        zscores[held_out] = robust_zscore(scores)
    return zscores


def robust_zscore(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Subtract the median of (N,) scores and divide by 1.4826 times their median absolute deviation.

    Where that deviation is zero, the standard deviation takes its place, and 1 where that is zero too.
    """
    median = np.median(scores)
    spread = float(1.4826 * np.median(np.abs(scores - median))) or float(scores.std()) or 1.0
    return np.asarray((scores - median) / spread, dtype=np.float64)
