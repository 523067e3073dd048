"""Which images a detector learns from, and how they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.calibration import DEFAULT_RATE, images_needed, promised_rank
from oddlens.config import DecisionSettings
from oddlens.datasets import ImageSet, near_duplicate_groups, open_dataset, open_images, split_groups, thumbnails
from oddlens.errors import DataError
from oddlens.images import Pixels, as_pixels

Images = ImageSet | npt.NDArray[Any] | str | Path | Sequence[str | Path]
Index = npt.NDArray[np.intp]

HOLD_OUT = 0.2  # share of the normals kept for calibration, more where the asked rate needs more
HOLD_MOST = 500  # images kept for calibration at most, unless the asked rate needs more
STANDARD = 0.1  # share of the normals that bring an ensemble's members to one scale
STANDARD_MOST = 300


def normal_images(images: Images) -> ImageSet:
    """What to learn normal from: of a folder or data set with a training part, that part."""
    if isinstance(images, str | Path):
        return open_dataset(images).train
    return as_image_set(images)


def as_image_set(images: Images) -> ImageSet:
    """Whatever a user hands over, as an `ImageSet`."""
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, np.ndarray):
        return ImageSet.from_array(as_pixels(images))
    return open_images([images] if isinstance(images, str | Path) else images)


def split_normals(
    pixels: Pixels, decision: DecisionSettings, seed: int, *, hold_out: bool = True, standardise: bool = False
) -> tuple[Index, Index, Index]:
    """Indices to train on, to standardise an ensemble's members on, and to calibrate on; near-duplicates stay together.

    A fifth is held out for calibration, 500 images at most, or as much more (up to half) as the asked rate needs;
    with `standardise`, a tenth (300 at most) is set aside for that. Without `hold_out` nothing is kept to calibrate.

    Raises:
        CalibrationError: half of the images cannot promise the asked rate.
    """
    groups = near_duplicate_groups(thumbnails(pixels))
    largest = int(np.bincount(groups).max())
    needed = images_needed(decision.false_alarm_rate or DEFAULT_RATE, decision.confidence)
    wanted = max(min(round(HOLD_OUT * len(pixels)), HOLD_MOST), needed + largest - 1)
    n_hold = max(1, min(wanted, len(pixels) // 2)) if hold_out else 0
    n_standard = min(round(STANDARD * len(pixels)), STANDARD_MOST) if standardise else 0
    learn, standard, hold = split_groups(groups, [len(pixels) - n_standard - n_hold, n_standard, n_hold], seed)
    if len(learn) == 0 or (hold_out and len(hold) == 0):
        raise DataError(
            f"the {len(pixels)} normal images are near-duplicates of each other ({groups.max() + 1} group(s)), so that "
            "none can be held out; add pictures of other parts"
        )
    if hold_out and decision.method == "conformal" and decision.false_alarm_rate is not None:
        promised_rank(len(hold), decision.false_alarm_rate, decision.confidence)
    return learn, standard, hold


def describe(images: Images) -> str:
    """Where images came from, for the manifest."""
    if isinstance(images, str | Path):
        return str(images)
    if isinstance(images, ImageSet):
        return images.names[0].rsplit("/", 1)[0] if len(images) else "nothing"
    return f"array {images.shape}" if isinstance(images, np.ndarray) else f"{len(images)} files and folders"
