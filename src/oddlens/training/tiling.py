"""Whether images are scored in tiles, and in which: the choice is made from their sizes, before they are decoded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from oddlens.config.base import MAX_MODEL_SIDE, MAX_SIDE, InputSpec, Tiling
from oddlens.data.image_header import ImageInfo
from oddlens.data.preprocessing import choose_size
from oddlens.data.training_images import DEFAULT_SIDES, MaxSides, input_size
from oddlens.errors import SettingsError

MIN_TILE_SIDE = 16
OVERLAP_SHARE = 4  # neighbouring tiles share a quarter of their side: a defect up to that size is whole in one of them
MAX_ELONGATION = 4.0  # longer side by shorter side, above which images are tiled where they would be shrunk
MIN_ELONGATED_FACTOR = 2.0  # by which elongated images would be shrunk
DEFAULT_SECONDS = 300.0  # for fitting, where there is no budget
TILE_SHARE = 0.5  # of these seconds, for tiles
MAX_SHRINKING = 8.0  # along the longer side, above which images are tiled
SHRINK_STEP = 0.875  # by which images are shrunk until there are few enough tiles

Tile = int | Literal["auto", "off"]


class Canvas(NamedTuple):
    """The size in pixels to which all images are brought, and the tiles that they are scored in, if any."""

    height: int
    width: int
    tiling: Tiling | None


def check_tile(tile: Tile) -> None:
    """Refuse a tile that is no side of tiles.

    Raises:
        SettingsError: says what is allowed.
    """
    if tile in ("auto", "off"):
        return
    if isinstance(tile, bool) or not isinstance(tile, int) or not MIN_TILE_SIDE <= tile <= MAX_MODEL_SIDE:
        raise SettingsError(
            f"tile: must be 'auto', 'off' or a side from {MIN_TILE_SIDE} to {MAX_MODEL_SIDE} pixels, got {tile!r}"
        )


def choose_tiling(
    infos: Sequence[ImageInfo], tile: Tile, size: int | None, sides: MaxSides | None, seconds: float
) -> Canvas | None:
    """The canvas for a training set; None where the images are brought to the model's input whole.

    `tile` is the side of the tiles of images at their median size, or at `size` along the longer side. "auto" tiles
    images that would be shrunk much to the model's input (`sides`), and long ones; within `seconds` for fitting, it
    shrinks images that have too many tiles.

    Raises:
        SettingsError: `size` is out of range, or there are too many tiles.
    """
    if not infos or tile == "off" or (tile == "auto" and size is not None):
        return None
    if tile != "auto":
        return make_canvas(infos, size, tile)
    limits = sides or DEFAULT_SIDES
    canvas = make_canvas(infos, None, limits.shorter)
    longer, shorter = max(canvas[:2]), min(canvas[:2])
    factor = longer / max(choose_size(infos, input_size(infos, None, sides)))
    if factor <= MAX_SHRINKING and (longer <= MAX_ELONGATION * shorter or factor <= MIN_ELONGATED_FACTOR):
        return None
    budget = seconds if seconds < math.inf else DEFAULT_SECONDS
    affordable = TILE_SHARE * budget / limits.tile_seconds / len(infos)
    while canvas.tiling is not None and count_tiles(canvas) > affordable:
        longer = int(SHRINK_STEP * longer)
        canvas = make_canvas(infos, longer, limits.shorter)
    return None if canvas.tiling is None else canvas


def make_canvas(infos: Sequence[ImageInfo], size: int | None, side: int) -> Canvas:
    """Images at their median size, or with the longer side `size`, in tiles of `side`; one tile is no tiling."""
    if size is not None and not 4 <= size <= MAX_SIDE:
        raise SettingsError(f"size: must be from 4 to {MAX_SIDE} pixels with tiles, got {size}")
    sides = [statistics.median(values) for values in zip(*((info.height, info.width) for info in infos), strict=True)]
    scale = (size or min(MAX_SIDE, max(sides))) / max(sides)
    height, width = (max(4, round(scale * value)) for value in sides)
    if height <= side and width <= side:
        return Canvas(height, width, None)
    tiling = Tiling(height=min(side, height), width=min(side, width), overlap=side // OVERLAP_SHARE)
    canvas = Canvas(height, width, tiling)
    try:
        tiling.check(canvas_spec(canvas))
    except ValueError as error:
        raise SettingsError(f"tile: {error}; use larger tiles, or a smaller size") from error
    return canvas


def canvas_spec(canvas: Canvas) -> InputSpec:
    """A form of images of this size."""
    return InputSpec(height=canvas.height, width=canvas.width, channels=1)


def count_tiles(canvas: Canvas) -> int:
    """Number of tiles of an image."""
    return 1 if canvas.tiling is None else canvas.tiling.count(canvas_spec(canvas))


def describe_tiling(infos: Sequence[ImageInfo], canvas: Canvas) -> str:
    """What the tiles are, and what becomes of the images before, in a remark."""
    tiling = canvas.tiling
    if tiling is None:
        return f"tiles: none, because one tile covers images of {canvas.width} x {canvas.height} pixels"
    factor = max(max(info.height / canvas.height, info.width / canvas.width) for info in infos)
    shrinking = f", shrunk up to {factor:.1f}-fold," if factor >= 1.05 else ""
    return (
        f"tiles: images of {canvas.width} x {canvas.height} pixels{shrinking} are scored in tiles, "
        f"{tiling.describe(canvas_spec(canvas))}; an image's score is that of its most anomalous tile"
    )
