"""Anomaly maps as heatmaps on one calibrated scale: a colour means the same evidence in every image.

The unit of the scale is the map threshold: on held-out normal images, all but the false-alarm rate of the maps stay at
or below it everywhere. So a normal image has almost no colour, and regions above the threshold are outlined.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize_map

MIN_SHOWN, MAX_SHOWN = 0.9, 2.0  # in thresholds: no colour below the first, no change above the second
THRESHOLD_COLOR, MAX_COLOR = (255.0, 210.0, 40.0), (220.0, 20.0, 30.0)  # yellow, red
MAX_OPACITY = 0.8  # below 1, so that the image stays visible
LAYER_LEVELS = 29  # colours of a layer, besides transparent; then come those of the outline, outside and inside
STRIP_PIXELS = 2**16  # pixels of an image that are blended at a time, few enough for a processor's cache

RGBImage = npt.NDArray[np.uint8]  # (H, W, 3)


def overlay(
    image: Pixels, anomaly_map: npt.NDArray[np.float32], threshold: float, value_max: int, outlined: bool = True
) -> RGBImage:
    """Draw the colours of an anomaly map over an (H, W, C) image in grey, at the size of the image.

    There is no colour up to 0.9 times the `threshold`; it is yellow at the threshold, and red from twice the threshold.
    Regions above it are outlined in white and black, which is visible on any background.
    """
    grey = grey_levels(image, value_max)[..., 0]
    height, width = grey.shape
    blended = np.empty((height, width, 3), dtype=np.uint8)
    above = np.empty((height, width), dtype=bool)
    for rows in _strips(height, max(1, STRIP_PIXELS // width)):
        part = slice(rows.start, rows.stop)
        evidence = resize_map(anomaly_map, height, width, rows) / np.float32(threshold)
        blended[part] = blend_evidence(grey[part], evidence)
        above[part] = evidence > 1
    if outlined and above.any():
        draw_outline(blended, above)
    return blended


def _strips(height: int, count: int) -> Iterator[range]:
    """Cover the rows of an image by ranges of at most `count` rows."""
    for start in range(0, height, count):
        yield range(start, min(start + count, height))


def layer(anomaly_map: npt.NDArray[np.float32], threshold: float, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw an anomaly map as a layer (height, width) to lay over an image: indices into `layer_palette`."""
    evidence = resize_map(anomaly_map, height, width) / np.float32(threshold)
    share = np.cbrt(np.clip((evidence - MIN_SHOWN) / (MAX_SHOWN - MIN_SHOWN), 0, 1))  # in even steps of opacity
    indices: npt.NDArray[np.uint8] = np.rint(share * LAYER_LEVELS).astype(np.uint8)
    draw_outline(indices, evidence > 1, outside=LAYER_LEVELS + 1, inside=LAYER_LEVELS + 2)
    return indices


def layer_palette() -> npt.NDArray[np.uint8]:
    """The colours of a layer as RGBA (LAYER_LEVELS + 3, 4): those of `overlay`, with their opacity."""
    share = np.arange(LAYER_LEVELS + 1) / LAYER_LEVELS
    evidence = MIN_SHOWN + (MAX_SHOWN - MIN_SHOWN) * share**3
    redness = np.clip((evidence - 1) / (MAX_SHOWN - 1), 0, 1)[:, None]
    colors = (1 - redness) * THRESHOLD_COLOR + redness * MAX_COLOR
    shades = np.column_stack([colors, 255 * MAX_OPACITY * share])
    outline = [[255, 255, 255, 255], [0, 0, 0, 255]]
    palette: npt.NDArray[np.uint8] = np.vstack([shades, outline]).round().astype(np.uint8)
    return palette


def draw_outline(
    pixels: npt.NDArray[np.uint8], above: npt.NDArray[np.bool_], outside: int = 255, inside: int = 0
) -> None:
    """Draw the outline of the region `above`, (H, W), into pixels (H, W[, 3]).

    The line around it has the value `outside`, by default white, and the one within has `inside`, black.
    """
    height, width = above.shape
    radius = max(1, round(max(height, width) / 400))
    for rows in _strips(height, max(4 * radius, STRIP_PIXELS // width)):
        first = max(0, rows.start - radius)
        nearby = above[first : rows.stop + radius]
        if nearby.all() or not nearby.any():
            continue
        within = above[rows.start : rows.stop]
        part = slice(rows.start - first, rows.stop - first)
        strip = pixels[rows.start : rows.stop]
        strip[dilate(nearby, radius)[part] & ~within] = outside
        strip[dilate(~nearby, radius)[part] & within] = inside


def dilate(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Mark in an (H, W) mask every pixel within a square of 2 `radius` + 1 pixels around a marked one.

    Rows and columns are widened one after the other, each time to twice the width, so that a large radius costs
    little more than a small one.
    """
    size = 2 * radius + 1
    for _ in range(2):
        mask, width = np.pad(mask, ((0, 0), (radius, radius))), 1
        while width < size:
            step = min(width, size - width)
            mask, width = mask[:, step:] | mask[:, :-step], width + step
        mask = mask.T
    return mask


def grey_levels(image: Pixels, value_max: int) -> npt.NDArray[np.uint8]:
    """The mean of the channels of an image (H, W, C) in 0..value_max, as (H, W, 1) in 0..255, rounded down."""
    height, width, channels = image.shape
    if image.dtype == np.uint8 and channels == 1 and value_max == 255:
        return image.astype(np.uint8, copy=False)
    grey = np.empty((height, width, 1), dtype=np.uint8)
    for rows in _strips(height, max(1, STRIP_PIXELS // width)):
        strip = image[rows.start : rows.stop]
        total = strip[..., 0].astype(np.uint32)
        for channel in range(1, channels):
            total += strip[..., channel]
        grey[rows.start : rows.stop, :, 0] = np.minimum(total * 255 // (channels * value_max), 255)
    return grey


def blend_evidence(grey: npt.NDArray[np.uint8], evidence: npt.NDArray[np.floating]) -> RGBImage:
    """Blend the colours of (H, W) evidence, in units of the threshold, over (H, W) grey levels."""
    if not (evidence > MIN_SHOWN).any():  # most of a normal image
        return grey[..., None].repeat(3, axis=2)
    opacity = MAX_OPACITY * np.cbrt(np.clip((evidence - MIN_SHOWN) / (MAX_SHOWN - MIN_SHOWN), 0, 1))
    redness = opacity * np.clip((evidence - 1) / (MAX_SHOWN - 1), 0, 1)
    remaining = grey * (1 - opacity)
    blended = np.empty((*grey.shape, 3), dtype=np.uint8)
    for channel, (least, most) in enumerate(zip(THRESHOLD_COLOR, MAX_COLOR, strict=True)):
        blended[..., channel] = remaining + least * opacity + (most - least) * redness
    return blended


def color_scale(width: int, height: int) -> RGBImage:
    """Draw the colour scale, (height, width, 3): evidence from 0 to `MAX_SHOWN` over a middle grey."""
    evidence = np.broadcast_to(np.linspace(0, MAX_SHOWN, width), (height, width))
    return blend_evidence(np.full((height, width), 128, dtype=np.uint8), evidence)
