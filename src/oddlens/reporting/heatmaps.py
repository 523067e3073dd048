"""Anomaly maps as pictures, on one calibrated scale: the same colour is the same evidence in every picture.

The scale's unit is the level that normal images stay at or below (all but the false-alarm rate of them), as held-out
ones show. So a normal image looks calm, and what lies above the level is outlined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize_map

MIN_SHOWN_LEVEL, MAX_SHOWN_LEVEL = 0.5, 2.0  # levels: nothing is shown below the one, and no more from the other on
AT_LEVEL, AT_FULL = (255.0, 210.0, 40.0), (220.0, 20.0, 30.0)  # yellow, red
OPACITY = 0.8  # at most: the image stays visible

RGBImage = npt.NDArray[np.uint8]  # (H, W, 3)


def overlay(
    image: Pixels, anomaly_map: npt.NDArray[np.float32], level: float, value_max: int, outlined: bool = True
) -> RGBImage:
    """An image (H, W, C) in grey under its map's colours, at the image's own size.

    Nothing is drawn up to half of `level`; it is yellow at the level, and red from twice the level on. Regions above
    the level are outlined in white beside black, which shows on every ground.
    """
    grey = image.mean(axis=2) * (255 / value_max)
    evidence = resize_map(anomaly_map, *image.shape[:2]) / level
    blended = blend_evidence(grey, evidence)
    beyond = evidence > 1
    if outlined and beyond.any():
        thick = 2 * max(1, round(max(beyond.shape) / 400)) + 1
        outside = np.asarray(Image.fromarray(beyond).convert("L").filter(ImageFilter.MaxFilter(thick))) > 0
        inside = np.asarray(Image.fromarray(beyond).convert("L").filter(ImageFilter.MinFilter(thick))) > 0
        blended[outside & ~beyond] = 255
        blended[beyond & ~inside] = 0
    return blended


def blend_evidence(grey: npt.NDArray[np.floating], evidence: npt.NDArray[np.floating]) -> RGBImage:
    """Grey values (H, W) in 0..255 under the colours of evidence (H, W), in units of the level."""
    shown = np.clip((evidence - MIN_SHOWN_LEVEL) / (MAX_SHOWN_LEVEL - MIN_SHOWN_LEVEL), 0, 1)[..., None]
    redness = np.clip((evidence - 1) / (MAX_SHOWN_LEVEL - 1), 0, 1)[..., None]
    colour = np.array(AT_LEVEL) * (1 - redness) + np.array(AT_FULL) * redness
    alpha = OPACITY * np.sqrt(shown)
    mixed: RGBImage = np.clip(grey[..., None] * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)
    return mixed


def colour_scale(width: int, height: int) -> RGBImage:
    """The scale itself, (height, width, 3): evidence from 0 to `FULL` levels over a middle grey."""
    evidence = np.broadcast_to(np.linspace(0, MAX_SHOWN_LEVEL, width), (height, width))
    return blend_evidence(np.full((height, width), 128.0), evidence)
