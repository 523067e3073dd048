"""Training images as tiles, of which there are at most as many as training can go through."""

from __future__ import annotations

import numpy as np

from oddlens.data.image_io import Pixels
from oddlens.data.pixel_store import allocate_pixels
from oddlens.inference.tiling import TileGrid

MAX_TRAINING_PIXELS = 2**28  # of all training tiles, about 16,000 of 128 x 128, unless there are more images


def training_tiles(pixels: Pixels, grid: TileGrid, seed: int) -> tuple[Pixels, int]:
    """Tiles (N * n, height, width, C) of images (N, H, W, C), and n: image k // n has the tile k.

    Each image has the same number of tiles: all, or so many that the limit is kept, but at least one. Each place of
    the grid is drawn equally often, at places that differ from image to image.
    """
    spec = grid.tile_spec
    most = MAX_TRAINING_PIXELS // (spec.height * spec.width * max(1, len(pixels)))
    count = max(1, min(len(grid), most))
    tiles = allocate_pixels((len(pixels) * count, spec.height, spec.width, spec.channels), pixels.dtype)
    order = np.random.default_rng(seed).permutation(len(grid))
    for number, image in enumerate(pixels):
        places = np.sort(order[(number * count + np.arange(count)) % len(grid)])
        tiles[number * count : (number + 1) * count] = grid.cut(image, places.tolist())
    return tiles, count
