"""Strips of woven cloth, 2048 x 32 pixels, with or without a spot of 12 pixels that is a little darker."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize_map

HEIGHT, WIDTH, SPOT = 32, 2048, 12


def strip_images(count: int, seed: int, *, with_spot: bool = False, depth: float = 36.0) -> Pixels:
    """Grey strips (count, 32, 2048, 1): uneven light, soft blotches as large as the spot, noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    strips = np.empty((count, HEIGHT, WIDTH, 1), dtype=np.uint8)
    for strip in strips:
        phase = rng.uniform(0, 2 * np.pi, 4)
        weave = np.sin(columns * 0.9 + phase[0]) * np.cos(rows * 1.1 + phase[1])
        light = 6 * np.sin(columns / 250 + phase[2]) + rng.normal(0, 3)
        image = 128 + 12 * weave + light + blotches(rng) + rng.normal(0, 4, (HEIGHT, WIDTH))
        if with_spot:
            y, x = rng.uniform(SPOT / 2, HEIGHT - SPOT / 2), rng.uniform(SPOT / 2, WIDTH - SPOT / 2)
            image -= depth * ((rows - y) ** 2 + (columns - x) ** 2 < (SPOT / 2) ** 2)
        strip[..., 0] = image.clip(0, 255)
    return strips


def blotches(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Soft light and dark blotches (32, 2048), about 16 pixels wide."""
    coarse = rng.normal(0, 14, (HEIGHT // 8, WIDTH // 16))
    return np.asarray(resize_map(coarse, HEIGHT, WIDTH))
