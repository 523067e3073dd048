"""Images inside an HTML file: small, and each an address of its own that holds its bytes."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize
from oddlens.reporting import heatmaps

MAX_LOSSLESS_SIDE = 64  # pixels; larger images are photographs for which JPEG is a fraction of PNG
MIN_LAYER_SIDE = 128  # pixels of a heatmap's longer side, so that its outline is smooth over a small image
JPEG_QUALITY = 82


def fit_within(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width of an (H, W, ...) image whose longer side is at most `side`.

    >>> fit_within((100, 400, 3), 200), fit_within((8, 8), 200)
    ((50, 200), (8, 8))
    """
    scale = min(1.0, side / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def shrunk_image(pixels: Pixels, value_max: int, side: int) -> Image.Image:
    """An (H, W, C) image in 0..`value_max` as one of 8 bits, its longer side at most `side` pixels."""
    height, width = fit_within(pixels.shape, side)
    shrunk = resize(pixels, height, width) if (height, width) != pixels.shape[:2] else pixels
    levels = (shrunk.astype(np.float32) * (255 / value_max)).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def image_url(pixels: Pixels, value_max: int, side: int) -> str:
    """An (H, W, C) image in 0..`value_max` as a data URL, its longer side at most `side` pixels."""
    image = shrunk_image(pixels, value_max, side)
    if max(image.size) <= MAX_LOSSLESS_SIDE:
        return data_url(image, "png", optimize=True)
    return data_url(image, "jpeg", quality=JPEG_QUALITY, optimize=True)


def heatmap_url(anomaly_map: npt.NDArray[np.float32], threshold: float, side: int) -> str:
    """The colours of an anomaly map (H, W) as a data URL of a transparent layer over its image."""
    height, width = layer_size(anomaly_map.shape, side)
    return layer_url(heatmaps.layer(anomaly_map, threshold, height, width), heatmaps.layer_palette())


def outline_url(mask: npt.NDArray[np.bool_], side: int) -> str:
    """The outline of what a mask (H, W) marks as a data URL of a transparent layer over its image."""
    shape = layer_size(mask.shape, side)
    marked = np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST), dtype=bool)
    indices = np.zeros(shape, dtype=np.uint8)
    heatmaps.draw_outline(indices, marked, outside=1, inside=2)
    return layer_url(indices, np.array([[0, 0, 0, 0], [0, 0, 0, 255], [0, 255, 255, 255]], dtype=np.uint8))


def layer_size(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width of a layer over an (H, W, ...) image."""
    scale = float(np.clip(1.0, MIN_LAYER_SIDE / max(shape[:2]), max(MIN_LAYER_SIDE, side) / max(shape[:2])))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def layer_url(indices: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> str:
    """Indices (H, W) into a palette (n, 4) of RGBA as a data URL."""
    image = Image.fromarray(indices)
    image.putpalette(palette[:, :3].tobytes())
    return data_url(image, "png", optimize=True, transparency=palette[:, 3].tobytes())


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """An image as an address that holds its bytes."""
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
