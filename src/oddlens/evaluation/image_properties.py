"""Simple properties of images (brightness, contrast, colour, sharpness, shape), to say how one is different."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import Pixels

# Property: what an image is where it is low and high, and a difference that anyone would see.
NAMES = (
    ("darker", "brighter", 0.02),  # mean, as a share of the value range
    ("less contrast", "more contrast", 0.01),  # standard deviation of grey, as a share of the value range
    ("less colour", "more colour", 0.02),  # mean range of the channels, as a share of the value range
    ("blurred", "sharper", 0.1),  # logarithm of the mean difference of neighbours, relative to the contrast
    ("narrower", "wider", 0.03),  # logarithm of width / height
)
MAX_DEVIATIONS = 6.0  # robust standard deviations beyond which a property is remarkable
MIN_CONTRAST = 1e-3


@dataclass(frozen=True)
class Properties:
    """The properties of images, (N, 5), in the order of `NAMES`."""

    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: npt.NDArray[np.intp]) -> Properties:
        """The properties of the images at an index."""
        return Properties(self.values[index])

    @cached_property
    def deviations(self) -> npt.NDArray[np.float64]:
        """(N, 5): each property in robust standard deviations from that of the usual image."""
        differences = self.values - np.median(self.values, axis=0)
        spread = 1.4826 * np.median(np.abs(differences), axis=0)
        return np.asarray(differences / np.maximum(spread, [visible for _, _, visible in NAMES]), dtype=np.float64)

    def remarks(self, i: int) -> list[str]:
        """How the i-th image differs from the usual one; empty where no property is remarkable."""
        return [
            high if deviation > 0 else low
            for (low, high, _), deviation in zip(NAMES, self.deviations[i], strict=True)
            if abs(deviation) > MAX_DEVIATIONS
        ]


def image_properties(pixels: Pixels, infos: Sequence[ImageInfo], value_max: int) -> npt.NDArray[np.float64]:
    """(N, 5): the properties of pixels (N, H, W, C), all of one shape; `infos` have the shapes of their files."""
    values = pixels.astype(np.float32) / value_max
    grey = values.mean(axis=3)
    contrast = grey.std(axis=(1, 2))
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    return np.stack(
        [
            grey.mean(axis=(1, 2)),
            contrast,
            np.ptp(values, axis=3).mean(axis=(1, 2)),
            np.log((steps + MIN_CONTRAST) / (contrast + MIN_CONTRAST)),
            np.log([info.width / info.height for info in infos]),
        ],
        axis=1,
        dtype=np.float64,
    )
