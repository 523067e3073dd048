"""Anomaly maps as heatmaps on one calibrated scale: a colour means the same evidence in every image.

The unit of the scale is the map threshold: on held-out normal images, all but the false-alarm rate of the maps stay at
or below it everywhere. So a normal image has almost no colour, and regions above the threshold are outlined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize_map

MIN_SHOWN, MAX_SHOWN = 0.5, 2.0  # in thresholds: no colour below the first, no change above the second
THRESHOLD_COLOR, MAX_COLOR = (255.0, 210.0, 40.0), (220.0, 20.0, 30.0)  # yellow, red
MAX_OPACITY = 0.8  # below 1, so that the image stays visible

RGBImage = npt.NDArray[np.uint8]  # (H, W, 3)


def overlay(
    image: Pixels, anomaly_map: npt.NDArray[np.float32], threshold: float, value_max: int, outlined: bool = True
) -> RGBImage:
    """Draw the colours of an anomaly map over an (H, W, C) image in grey, at the size of the image.

    There is no colour up to half of `threshold`; it is yellow at the threshold, and red from twice the threshold.
    Regions above it are outlined in white and black, which is visible on any background.
    """
    grey = image.mean(axis=2) * (255 / value_max)
    evidence = resize_map(anomaly_map, *image.shape[:2]) / threshold
    blended = blend_evidence(grey, evidence)
    above = evidence > 1
    if outlined and above.any():
        width = 2 * max(1, round(max(above.shape) / 400)) + 1
        dilated = np.asarray(Image.fromarray(above).convert("L").filter(ImageFilter.MaxFilter(width))) > 0
        eroded = np.asarray(Image.fromarray(above).convert("L").filter(ImageFilter.MinFilter(width))) > 0
        blended[dilated & ~above] = 255
        blended[above & ~eroded] = 0
    return blended


def blend_evidence(grey: npt.NDArray[np.floating], evidence: npt.NDArray[np.floating]) -> RGBImage:
    """Blend the colours of (H, W) evidence, in units of the threshold, over (H, W) grey values in 0..255."""
    visible = np.clip((evidence - MIN_SHOWN) / (MAX_SHOWN - MIN_SHOWN), 0, 1)[..., None]
    redness = np.clip((evidence - 1) / (MAX_SHOWN - 1), 0, 1)[..., None]
    color = np.array(THRESHOLD_COLOR) * (1 - redness) + np.array(MAX_COLOR) * redness
    alpha = MAX_OPACITY * np.sqrt(visible)
    blended: RGBImage = np.clip(grey[..., None] * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)
    return blended


def color_scale(width: int, height: int) -> RGBImage:
    """Draw the colour scale, (height, width, 3): evidence from 0 to `MAX_SHOWN` over a middle grey."""
    evidence = np.broadcast_to(np.linspace(0, MAX_SHOWN, width), (height, width))
    return blend_evidence(np.full((height, width), 128.0), evidence)
