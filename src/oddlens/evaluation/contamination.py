"""Which of the images that are meant to be normal look least so: each judged by a detector that did not learn it."""

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
from oddlens.errors import DataError

if TYPE_CHECKING:
    from oddlens.training.history import Progress

MIN_IMAGES = 40  # images below which two halves of them teach too little
MAX_SECONDS, SECONDS_PER_IMAGE, MIN_SECONDS = 120.0, 0.1, 10.0  # that learning takes unless told otherwise


def default_budget(count: int) -> float:
    """Seconds of learning for so many images, where nothing else is asked for."""
    return min(MAX_SECONDS, max(MIN_SECONDS, SECONDS_PER_IMAGE * count))


def anomaly_zscores(
    images: ImageSet, budget: float, seed: int = 0, progress: Progress | None = None
) -> npt.NDArray[np.float64]:
    """(N,) how unusual each image is among the others, in robust standard deviations of its half's scores.

    The images are divided into two halves that share no near-duplicates; `auto` learns each half within half of the
    `budget` (seconds), robust against anomalies in it, and scores the other one.

    Raises:
        DataError: the images are not usable, or too alike to be divided.
        MissingExtraError: training needs packages that are not installed.
    """
    groups = near_duplicate_groups(thumbnails(images.load(images.choose_spec(None))))
    halves = split_groups(groups, [len(images) - len(images) // 2, len(images) // 2], seed)
    if min(len(half) for half in halves) < MIN_IMAGES // 2:
        raise DataError(f"the {len(images)} images are near-duplicates of each other, too alike to be divided in two")
    found = np.empty(len(images))
    for learnt, judged in (halves, halves[::-1]):
        detector = Detector(AutoSettings(robust=True), training=TrainingSettings(seed=seed), budget=budget / 2)
        scores = detector.fit(images.subset(learnt), hold_out=False, progress=progress).score(images.subset(judged))
        found[judged] = robust_zscore(scores)
    return found


def robust_zscore(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scores less their median, by what would be the standard deviation if half of the images were all."""
    middle = np.median(scores)
    spread = float(1.4826 * np.median(np.abs(scores - middle))) or float(scores.std()) or 1.0
    return np.asarray((scores - middle) / spread, dtype=np.float64)
