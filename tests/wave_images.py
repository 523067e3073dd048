"""Synthetic images of waves, and data sets of them, for the tests of the data checks."""

from __future__ import annotations

import numpy as np

from oddlens.data.image_set import DataSet, ImageSet
from oddlens.evaluation.diagnosis import Diagnosis


def wave_images(count: int, mean: float, seed: int, side: int = 24) -> np.ndarray:
    """Vertical waves of random frequency and phase with noise, (count, side, side, 1)."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(side) * rng.uniform(0.3, 0.9, (count, 1)) + rng.uniform(0, 6, (count, 1)))
    pixels = mean + 30 * waves[:, None, :] + rng.normal(0, 9, (count, side, side))
    return np.clip(pixels, 0, 255).astype(np.uint8)[..., None]


def build_dataset(train: np.ndarray, good: np.ndarray, bad: np.ndarray) -> DataSet:
    """A data set of training images, and of good and bad test images."""
    labels = np.repeat([0, 1], [len(good), len(bad)])
    test = ImageSet.from_array(np.concatenate([good, bad]), name="test", label=labels)
    return DataSet("waves", ImageSet.from_array(train, name="train"), test, "good")


def finding_names(diagnosis: Diagnosis) -> set[str]:
    """The names of all findings."""
    return {finding.name for finding in diagnosis.findings}
