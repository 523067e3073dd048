"""Second step of fitting: normal images as pixels of one form, with the region of interest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.preprocessing import choose_size, read_roi

DEFAULT_SIDE = 128  # longer side of the input from which on a larger one counts


class MaxSides(NamedTuple):
    """Sides in pixels of the input of a detector, at most; both count where images are large."""

    longer: int
    shorter: int  # also the side of tiles
    tile_seconds: float  # for fitting to such a tile and scoring it


DEFAULT_SIDES = MaxSides(DEFAULT_SIDE, DEFAULT_SIDE, 0.01)
ENSEMBLE_SIDES = MaxSides(192, 192, 0.02)  # of ensembles: small defects need more than the usual 128
PRETRAINED_SIDES = MaxSides(512, 256, 0.1)  # of families with a backbone
MAX_UNREMARKED_FACTOR = 4.0  # by which images are shrunk without a remark


@dataclass(frozen=True)
class TrainingImages:
    """Normal images as a detector takes them."""

    pixels: Pixels  # (N, H, W, C)
    spec: InputSpec
    roi: npt.NDArray[np.bool_] | None  # (H, W); None: the whole image counts
    images: ImageSet  # where they come from: source, normal class, groups
    remarks: tuple[str, ...] = ()  # on what the detector cannot see in them


def load_training_images(
    images: ImageSet,
    size: int | tuple[int, int] | None,
    sides: MaxSides | None,
    roi: str | None,
    infos: Sequence[ImageInfo] | None = None,
) -> TrainingImages:
    """Decode all images and bring them to one size; `roi` is a mask image's path or fractions (see `read_roi`).

    A pair `size` is height and width. `infos` are those of the images, where they have been read already.

    Raises:
        DataError: the images do not go together, or the region of interest cannot be used.
        ImageError: an image cannot be read.
        SettingsError: `size` is out of range.
    """
    infos = images.infos() if infos is None else infos
    spec = images.choose_spec(size if isinstance(size, tuple) else input_size(infos, size, sides), infos)
    shrinking = find_shrinking(infos, (spec.height, spec.width))
    remarks = () if shrinking is None else (f"size: {shrinking.text}",)
    return TrainingImages(images.load(spec), spec, read_roi(roi, spec) if roi else None, images, remarks)


def input_size(infos: Sequence[ImageInfo], size: int | None, sides: MaxSides | None) -> int | None:
    """The longer side of the input of a detector: `size`, or up to `sides` where images are large; else None."""
    if size is not None or sides is None or not infos:
        return size
    usual = choose_size(infos, None)
    if max(usual) < DEFAULT_SIDE:
        return None
    longest = max(max(info.height, info.width) for info in infos)
    longer = min(sides.longer, round(sides.shorter * max(usual) / min(usual) / 8) * 8)
    return max(min(longer, longest // 8 * 8), max(usual))


@dataclass(frozen=True)
class Shrinking:
    """Which images are shrunk more than fourfold to the input of a detector, and what that hides."""

    index: tuple[int, ...]  # of these images
    factor: float  # along the longer side of the image that is shrunk most
    text: str


def find_shrinking(infos: Sequence[ImageInfo], shape: tuple[int, int]) -> Shrinking | None:
    """The images that are shrunk more than fourfold to the input's `shape` (height, width); None if there are none."""
    height, width = shape
    factors = [info.width / width if info.width >= info.height else info.height / height for info in infos]
    index = tuple(i for i, factor in enumerate(factors) if factor > MAX_UNREMARKED_FACTOR)
    if not index:
        return None
    largest = max(index, key=factors.__getitem__)
    least, most = min(factors[i] for i in index), factors[largest]
    size = f"{infos[largest].width} x {infos[largest].height} pixels"
    sizes = {(infos[i].width, infos[i].height) for i in index}
    count = "images" if len(index) == len(infos) else f"{len(index)} of {len(infos)} images"
    folds = _fold(most) if _fold(least) == _fold(most) else f"{_fold(least)}- to {_fold(most)}"
    text = (
        f"{count} of {'up to ' * (len(sizes) > 1)}{size} are shrunk {folds}-fold to {width} x {height}: a defect "
        f"smaller than about {math.ceil(most)} pixels of {'the original' if len(sizes) == 1 else 'the largest'} covers "
        "less than one pixel of the input and is likely to be missed; fit with a larger --size or with --tile, or crop "
        "the images"
    )
    return Shrinking(index, most, text)


def _fold(factor: float) -> str:
    return f"{factor:.1f}" if factor < 10 else f"{factor:.0f}"
