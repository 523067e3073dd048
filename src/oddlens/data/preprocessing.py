"""Convert images to the size, channels and value range of a detector's input; read regions of interest."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from oddlens.config.base import MAX_MODEL_SIDE, InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import Pixels
from oddlens.data.masks import read_mask
from oddlens.errors import DataError, ImageError, SettingsError
from oddlens.io.paths import expand_home


def value_max(peak: int, bits: int) -> Literal[255, 4095, 65535]:
    """The full scale of images with `bits` per channel and largest value `peak`: 12-bit cameras write 16-bit files."""
    if bits == 8:
        return 255
    return 4095 if peak <= 4095 else 65535


MIN_SIDE = 8  # shorter side of an input that is smaller than its images
MAX_LONG_SIDE = 2048  # longer side of the input of elongated images, which has no more pixels than 128 x 128


def choose_spec(infos: Sequence[ImageInfo], value_max: int, size: int | tuple[int, int] | None) -> InputSpec:
    """Choose the input specification for a training set.

    Images that share one size of at most 64 x 64 pixels keep it. Otherwise the input has the median aspect ratio and
    a longer side of 128, or that of the largest image if it is smaller, in multiples of 8. With `size`, the longer
    side is exactly `size` and only the shorter side is rounded; a pair is height and width. The input has colour if
    any image has.

    Raises:
        DataError: there are no images, or both 8-bit and 16-bit images.
        SettingsError: `size` is out of range.
    """
    if not infos:
        raise DataError("there are no images to choose an input size from; pass at least one")
    if isinstance(size, int) and not 4 <= size <= MAX_MODEL_SIDE:
        raise SettingsError(f"size: must be from 4 to {MAX_MODEL_SIDE} pixels, got {size}")
    depths = Counter(info.bits for info in infos)
    if len(depths) > 1:
        raise DataError(f"{depths[8]} images have 8 bits and {depths[16]} have 16 bits; convert them to one bit depth")
    height, width = size if isinstance(size, tuple) else choose_size(infos, size)
    channels = max(info.channels for info in infos)
    return InputSpec.model_validate({"height": height, "width": width, "channels": channels, "value_max": value_max})


def choose_size(infos: Sequence[ImageInfo], size: int | None) -> tuple[int, int]:
    """Height and width of the input for a training set; see `choose_spec`.

    Elongated images keep their shape: the longer side grows until the shorter one has 8 pixels.
    """
    first = infos[0]
    same_size = all((info.height, info.width) == (first.height, first.width) for info in infos)
    if size is None and same_size and min(first.height, first.width) >= 4 and max(first.height, first.width) <= 64:
        return first.height, first.width
    largest = max(max(info.height, info.width) for info in infos)
    longer = size or max(8, min(128, largest) // 8 * 8)
    # With the logarithm, the median of an even number of ratios is the same for landscape and portrait images.
    log_ratio = statistics.median(math.log(info.width / info.height) for info in infos)
    ratio = math.exp(abs(log_ratio))
    if size is None and longer < MIN_SIDE * ratio:
        longer = max(longer, min(largest, MAX_LONG_SIDE, round(MIN_SIDE * ratio)) // 8 * 8)
    shorter = longer if log_ratio == 0 else min(longer, max(MIN_SIDE, round(longer / ratio / 8) * 8))
    return (shorter, longer) if log_ratio > 0 else (longer, shorter)


def fit_to(image: Pixels, spec: InputSpec, name: str) -> Pixels:
    """Convert one (H, W, C) image to the size and channels of `spec`; an image that already has them is not copied.

    The image is stretched, so that nothing is cut off and every map pixel has a position in the image. The resampling
    is bilinear, antialiased when shrinking, so no value leaves the image's range. Colour becomes grey by ITU-R BT.601
    luma in exact integers, (299 R + 587 G + 114 B + 500) // 1000; grey becomes colour by replication. Values above
    the spec's value_max are not clipped.

    Raises:
        ImageError: the image has 8 bits and the spec 16 or the reverse, whose scales differ.
    """
    if image.dtype != spec.dtype:
        bits, expected = image.dtype.itemsize * 8, 8 if spec.dtype == "uint8" else 16
        fix = f"use the camera's {expected}-bit image, or train again on {bits}-bit images"
        if bits == 16:
            fix += " (floats in 0..1 count as 16 bits, (255 * array).round().astype(np.uint8) as 8)"
        raise ImageError(name, f"has {bits} bits per channel, but the detector expects {expected}-bit images; {fix}")
    if spec.channels == 1:
        image = _grey(image)
    if image.shape[:2] != (spec.height, spec.width):
        image = resize(image, spec.height, spec.width)
    if image.shape[-1] == spec.channels:
        return image
    return image.repeat(spec.channels, axis=-1)


def _grey(image: Pixels) -> Pixels:
    if image.shape[-1] == 1:
        return image
    weights = np.array([299, 587, 114], np.uint32)
    return cast(Pixels, ((image @ weights + 500) // 1000)[..., None].astype(image.dtype))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize an (H, W, C) image: bilinear between pixel centres, antialiased when shrinking."""
    if image.dtype == np.uint8:
        whole = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        resized = np.array(whole.resize((width, height), Image.Resampling.BILINEAR))
        return cast(Pixels, resized.reshape(height, width, image.shape[-1]))
    planes = np.moveaxis(image, -1, 0)
    return np.stack([np.rint(resize_map(plane, height, width)).astype(np.uint16) for plane in planes], axis=-1)


def resize_map(
    values: np.ndarray[Any, Any], height: int, width: int, rows: range | None = None
) -> npt.NDArray[np.float32]:
    """Resize an (h, w) map to (height, width) float32: bilinear between pixel centres, antialiased when shrinking.

    With `rows`, only those rows of the result are computed, (len(rows), width).
    """
    rows = rows or range(height)
    if values.shape == (height, width):
        return values[rows.start : rows.stop].astype(np.float32)
    plane = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    box = (0, rows.start * plane.height / height, plane.width, rows.stop * plane.height / height)
    return np.array(plane.resize((width, len(rows)), Image.Resampling.BILINEAR, box), dtype=np.float32)


def read_roi(source: str, spec: InputSpec) -> npt.NDArray[np.bool_]:
    """Read a region of interest, (height, width) bool, from a mask image or "left,top,right,bottom" in 0..1.

    A pixel counts if its centre lies within the rectangle, or if at least half of it is marked in the mask, which
    is stretched in the same way as the images.

    Raises:
        DataError: `source` is neither of the two, the rectangle is not within 0..1, or the region has no pixel.
    """
    rectangle = _parse_rectangle(source)
    if rectangle is None:
        try:
            mask = read_mask(Path(expand_home(source)))
        except ImageError as error:
            raise DataError(f"region of interest {error}, or pass fractions such as 0.1,0.1,0.9,0.9") from error
        roi = resize_map(mask, spec.height, spec.width) >= 0.5
    else:
        left, top, right, bottom = rectangle
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise DataError(f"region of interest '{source}': needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
        x, y = (np.arange(spec.width) + 0.5) / spec.width, (np.arange(spec.height) + 0.5) / spec.height
        roi = ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
    if not roi.any():
        raise DataError(f"region of interest '{source}': contains no pixel of {spec.width} x {spec.height}; enlarge it")
    return roi


def _parse_rectangle(source: str) -> tuple[float, float, float, float] | None:
    try:
        left, top, right, bottom = (float(part) for part in source.split(","))
    except ValueError:
        return None
    return left, top, right, bottom


def mean_brightness(pixels: Pixels, value_max: int) -> npt.NDArray[np.float64]:
    """Mean (N,) of all values of each of the images (N, H, W, C), in 0..1."""
    flat = pixels.reshape(len(pixels), math.prod(pixels.shape[1:]))
    largest = flat.shape[1] * np.iinfo(pixels.dtype).max  # values may be above `value_max`
    total = np.uint32 if largest < 2**32 else np.uint64  # the smaller one is twice as fast
    return np.asarray(flat.sum(axis=1, dtype=total) / (flat.shape[1] * value_max), dtype=np.float64)
