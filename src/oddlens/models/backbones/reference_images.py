"""Synthetic images with the statistics of photographs, from which the scale of a backbone's features is known.

They are like "dead leaves" (Lee, Mumford and Huang, "Occlusion models for natural images", 2001): discs of all sizes
that cover each other. Networks even learn features from them that suit photographs (Baradad et al., "Learning to see by
looking at noise", 2021).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

N_DISCS = 300  # in an image
MIN_RADIUS, MAX_RADIUS = 0.02, 0.6  # of the shorter side; each octave has equally many discs
COLOURFULNESS, GRAIN = 0.15, 0.02  # standard deviation of a disc's colours around its grey, and of each pixel


def reference_images(count: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """Images (count, 3, height, width) in 0..1; the same for each call, whatever the training images."""
    rng = np.random.default_rng(0)
    images = np.empty((count, 3, height, width), np.float32)
    for image in images:
        radii = np.exp(rng.uniform(np.log(MIN_RADIUS), np.log(MAX_RADIUS), N_DISCS)) * min(height, width)
        radii = np.sort(radii)[::-1]  # the largest in the back
        grey = rng.uniform(0, 1, (N_DISCS + 1, 1))
        colours = grey + rng.normal(0, COLOURFULNESS, (N_DISCS + 1, 3))
        centres = rng.uniform(0, 1, (N_DISCS, 2)) * (height, width)
        image[:] = colours[-1, :, None, None]
        for (row, column), radius, colour in zip(centres, radii, colours, strict=False):
            top, left = max(0, int(row - radius)), max(0, int(column - radius))
            part = image[:, top : int(row + radius) + 2, left : int(column + radius) + 2]
            rows, columns = np.ogrid[top : top + part.shape[1], left : left + part.shape[2]]
            part[:, (rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = colour[:, None]
        image += rng.normal(0, GRAIN, image.shape)
    return np.clip(images, 0, 1)
