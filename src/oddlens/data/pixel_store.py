"""Storage for decoded pixels: in memory, or in a temporary file if they exceed `MAX_IN_MEMORY`.

Decoded pixels are stored as integers. The temporary file has no name and is freed with the array; the operating system
caches as much of it in memory as it can.
"""

from __future__ import annotations

import math
import shutil
import tempfile

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Index, Pixels
from oddlens.errors import DataError

MAX_IN_MEMORY = 2**30  # bytes; larger arrays are stored in a file
BLOCK_SIZE = 64  # images copied at a time


def allocate_pixels(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
    """Allocate an uninitialized array for pixels (N, H, W, C).

    Raises:
        DataError: the disk of the temporary folder has too little free space.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MAX_IN_MEMORY:
        empty: Pixels = np.empty(shape, dtype)
        return empty
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{shape[0]} decoded images need {size / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB free; "
            "free some space, set the environment variable TMPDIR to another folder, or use a smaller --size"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        pixels: Pixels = np.asarray(np.memmap(file, dtype, "w+", shape=shape))
    return pixels


def take_rows(pixels: Pixels, rows: Index) -> Pixels:
    """Select rows of pixels (N, H, W, C) in the order of `rows`; all rows in their original order are not copied."""
    if len(rows) == len(pixels) and np.array_equal(rows, np.arange(len(pixels))):
        return pixels
    selected = allocate_pixels((len(rows), *pixels.shape[1:]), pixels.dtype)
    for start in range(0, len(rows), BLOCK_SIZE):
        selected[start : start + BLOCK_SIZE] = pixels[rows[start : start + BLOCK_SIZE]]
    return selected
