"""Images of parts with a bright disc, for detectors that compare places."""

from __future__ import annotations

import numpy as np

from oddlens.data.image_io import Pixels


def part_images(count: int, seed: int, gain: float = 1.0) -> Pixels:
    """Grey parts with a bright disc, under light of about the same brightness."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 32) ** 2 + (columns - 32) ** 2 < 18**2
    image = np.where(disc, 150.0, 60.0) + rng.normal(0, 6, (count, 64, 64))
    pixels: Pixels = np.clip(np.rint(image * gain), 0, 255).astype(np.uint8)[..., None]
    return pixels
