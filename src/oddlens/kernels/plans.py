"""Which places of its input each place of a layer's output looks at, for `network.c`.

A table (places of the output, sets of weights) has the input place that a set is multiplied with, -1 where there is
none. Places are counted row by row; outputs that are pooled, window by window.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]


def places(height: int, width: int, *, pooled: bool = False) -> tuple[Table, Table]:
    """Rows and columns of all places in their order."""
    found = np.mgrid[:height, :width]
    if pooled:
        found = found.reshape(2, height // 2, 2, width // 2, 2).swapaxes(2, 3)
    rows, columns = found.reshape(2, -1)
    return rows, columns


def strided(height: int, width: int, stride: int, *, pooled: bool = False) -> Table:
    """A 3x3 convolution, padded by 1; its sets are the kernel's places row by row."""
    rows, columns = places(-(-height // stride), -(-width // stride), pooled=pooled)
    down, right = np.divmod(np.arange(9), 3)
    return inside(rows[:, None] * stride + down - 1, columns[:, None] * stride + right - 1, height, width)


def doubling(height: int, width: int) -> Table:
    """A transposed 4x4 convolution that doubles sides."""
    rows, columns = places(2 * height, 2 * width)
    down, right = np.divmod(np.arange(16), 4)
    twice_row, twice_column = rows[:, None] + 1 - down, columns[:, None] + 1 - right
    met = (twice_row % 2 == 0) & (twice_column % 2 == 0)
    return np.where(met, inside(twice_row // 2, twice_column // 2, height, width), -1)


def corners(height: int, width: int) -> Table:
    """The same convolution; outputs are the corners that four places share, each with the four pixels around it.

    There are (height + 1) * (width + 1) of them, with one set for each of the four places.
    """
    rows, columns = places(height + 1, width + 1)
    down, right = np.divmod(np.arange(4), 2)
    return inside(rows[:, None] + down - 1, columns[:, None] + right - 1, height, width)


def pixels(height: int, width: int, channels: int) -> Table:
    """The four pixels around each of those corners: where the first begins, and the bits of the channels inside."""
    rows, columns = (2 * each - 1 for each in places(height + 1, width + 1))
    down, right = np.divmod(np.arange(4), 2)
    there = inside(rows[:, None] + down, columns[:, None] + right, 2 * height, 2 * width) >= 0
    bits = np.repeat(there, channels, axis=1) @ (1 << np.arange(4 * channels))
    return np.stack([channels * (rows * 2 * width + columns), bits], axis=1)


def gathering(count: int) -> Table:
    """A dense layer from all places to one; each has its own set."""
    return np.arange(count)[None]


def spreading(count: int) -> Table:
    """A dense layer from one place to all."""
    return np.where(np.eye(count, dtype=bool), 0, -1)


def inside(rows: Table, columns: Table, height: int, width: int) -> Table:
    """Places by row and column, -1 beyond the border."""
    return np.where((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), rows * width + columns, -1)


def reverse(table: Table, places_in: int) -> Table:
    """The table of gradients: which place of the output each place of the input is multiplied into."""
    found = np.full((places_in, table.shape[1]), -1)
    outputs, sets = np.nonzero(table >= 0)
    found[table[outputs, sets], sets] = outputs
    return found


def plan(table: Table, beyond: int, size: int, *, together: bool = False) -> list[npt.NDArray[np.int32]]:
    """The arrays of a plan, for places of `size` numbers.

    Places that use the same sets are a phase. `together` makes one phase of all, in their order, as pooling needs it;
    `beyond` is the place that a border's missing taps look at then, where all is 0.
    """
    if together:
        which = np.zeros(len(table), dtype=np.int64)
    else:
        bits = np.packbits(table >= 0, axis=1)
        lines = np.ascontiguousarray(bits).view(np.dtype((np.void, bits.shape[1])))  # compared as a whole
        which = np.unique(lines, return_inverse=True)[1].reshape(-1)
    order = np.argsort(which, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
    taps = [np.flatnonzero((table[each] >= 0).any(axis=0)) for each in rows]
    index = [table[np.ix_(each, used)].reshape(-1) for each, used in zip(rows, taps, strict=True)]
    flat = np.concatenate(index)
    arrays = (
        starts(rows), np.concatenate(rows), starts(taps), np.concatenate(taps),
        starts(index), size * np.where(flat < 0, beyond, flat),
    )  # fmt: skip
    return [np.ascontiguousarray(each, dtype=np.int32) for each in arrays]


def starts(parts: list[Table]) -> Table:
    """Where each part begins, and the last one ends."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])])
