"""Second step of fitting: normal images as pixels of one form, with the region of interest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.preprocessing import read_roi

DEFAULT_SIDE = 128  # longer side of the input from which on a larger `max_side` counts


@dataclass(frozen=True)
class TrainingImages:
    """Normal images as a detector takes them."""

    pixels: Pixels  # (N, H, W, C)
    spec: InputSpec
    roi: npt.NDArray[np.bool_] | None  # (H, W); None: the whole image counts
    images: ImageSet  # where they come from: source, normal class, groups


def load_training_images(images: ImageSet, size: int | None, max_side: int | None, roi: str | None) -> TrainingImages:
    """Decode all images and bring them to one size; `roi` is a mask image's path or fractions (see `read_roi`).

    Raises:
        DataError: the images do not go together, or the region of interest cannot be used.
        ImageError: an image cannot be read.
        SettingsError: `size` is out of range.
    """
    spec = choose_spec(images, size, max_side)
    return TrainingImages(images.load(spec), spec, read_roi(roi, spec) if roi else None, images)


def choose_spec(images: ImageSet, size: int | None, max_side: int | None) -> InputSpec:
    """The input of a detector of these images: with a longer side of `size`, else as usual, or up to `max_side`."""
    spec = images.choose_spec(size)
    if size is not None or max_side is None or max(spec.height, spec.width) < DEFAULT_SIDE:
        return spec
    longest = max(max(info.height, info.width) for info in images.infos())
    return images.choose_spec(min(max_side, longest // 8 * 8))
