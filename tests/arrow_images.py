"""Synthetic images of arrows, and training tasks on them, for the tests of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.training.members import TrainingTask


def arrow_images(count: int, seed: int = 0) -> Pixels:
    """Images (N, 16, 16, 1) of a shape that points up and to the right: it has no rotational or mirror symmetry."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (count, 16, 16, 1), dtype=np.uint8)
    for image in pixels:
        top, left = rng.integers(1, 4, 2)
        image[top : top + 10, left : left + 3] = 200
        image[top : top + 3, left : left + 9] = 160
    return pixels


def training_task(pixels: Pixels, **changes: Any) -> TrainingTask:
    """A task that trains on four fifths of the pixels (N, H, W, C), with the rest for standardization."""
    count, height, width, channels = pixels.shape
    spec = InputSpec(height=height, width=width, channels=1 if channels == 1 else 3)
    values = {"roi": None, "device": torch.device("cpu"), "seed": 0} | changes
    return TrainingTask(pixels[: -count // 5], pixels[-count // 5 :], spec, **values)
