"""Room for decoded pixels: in memory, or in a temporary file where there are more of them than memory should hold.

Images are decoded once and kept as integers. Many of them lie in a file without a name that is gone with the array;
the system keeps of it in memory what there is room for.
"""

from __future__ import annotations

import math
import shutil
import tempfile

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.errors import DataError

MAX_IN_MEMORY = 2**30  # bytes; more lie in a file
BLOCK = 64  # images that are copied at a time


def allocate_pixels(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
    """An array for pixels (N, H, W, C), whose values are anything.

    Raises:
        DataError: the temporary folder's disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= MAX_IN_MEMORY:
        empty: Pixels = np.empty(shape, dtype)
        return empty
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{shape[0]} decoded images take {size / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB free; "
            "make room there, name another folder with the environment variable TMPDIR, or choose a smaller --size"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        kept: Pixels = np.asarray(np.memmap(file, dtype, "w+", shape=shape))
    return kept


def take_rows(pixels: Pixels, rows: npt.NDArray[np.intp]) -> Pixels:
    """Some of the pixels (N, H, W, C), in the order of `rows`; all of them in their own order are not copied."""
    if len(rows) == len(pixels) and np.array_equal(rows, np.arange(len(pixels))):
        return pixels
    found = allocate_pixels((len(rows), *pixels.shape[1:]), pixels.dtype)
    for start in range(0, len(rows), BLOCK):
        found[start : start + BLOCK] = pixels[rows[start : start + BLOCK]]
    return found
