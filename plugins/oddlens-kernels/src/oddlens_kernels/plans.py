"""Tables of the input places that each output place of a layer depends on, and their compact form for `network.c`.

A table (output places, sets of weights) holds the input place that a set is multiplied with, -1 where there is none.
Places are numbered row by row; pooled outputs window by window.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int64]


def place_coordinates(height: int, width: int, *, pooled: bool = False) -> tuple[Table, Table]:
    """Rows and columns of all places, in the order in which they are numbered."""
    grid = np.mgrid[:height, :width]
    if pooled:
        grid = grid.reshape(2, height // 2, 2, width // 2, 2).swapaxes(2, 3)
    rows, columns = grid.reshape(2, -1)
    return rows, columns


def strided_convolution(height: int, width: int, stride: int, *, pooled: bool = False) -> Table:
    """Table of a 3x3 convolution, padded by 1; its sets are the kernel's taps row by row."""
    rows, columns = place_coordinates(-(-height // stride), -(-width // stride), pooled=pooled)
    down, right = np.divmod(np.arange(9), 3)
    return place_indices(rows[:, None] * stride + down - 1, columns[:, None] * stride + right - 1, height, width)


def transposed_convolution(height: int, width: int) -> Table:
    """Table of a transposed 4x4 convolution with stride 2, padded by 1; its sets are the kernel's taps row by row."""
    rows, columns = place_coordinates(2 * height, 2 * width)
    down, right = np.divmod(np.arange(16), 4)
    double_rows, double_columns = rows[:, None] + 1 - down, columns[:, None] + 1 - right
    is_tap = (double_rows % 2 == 0) & (double_columns % 2 == 0)
    return np.where(is_tap, place_indices(double_rows // 2, double_columns // 2, height, width), -1)


def corners(height: int, width: int) -> Table:
    """Table of the same convolution with the corners between places as its outputs, each for the four pixels around it.

    There are (height + 1) * (width + 1) corners, and one set of weights for each of the four places around a corner.
    """
    rows, columns = place_coordinates(height + 1, width + 1)
    down, right = np.divmod(np.arange(4), 2)
    return place_indices(rows[:, None] + down - 1, columns[:, None] + right - 1, height, width)


def corner_pixels(height: int, width: int, channels: int) -> Table:
    """Offset of each corner's first of four pixels, and bit mask of the channels inside the image; (corners, 2)."""
    rows, columns = (2 * index - 1 for index in place_coordinates(height + 1, width + 1))
    down, right = np.divmod(np.arange(4), 2)
    is_inside = place_indices(rows[:, None] + down, columns[:, None] + right, 2 * height, 2 * width) >= 0
    mask = np.repeat(is_inside, channels, axis=1) @ (1 << np.arange(4 * channels))
    return np.stack([channels * (rows * 2 * width + columns), mask], axis=1)


def dense_from_places(count: int) -> Table:
    """Table of a dense layer from all places to one, with one set of weights a place."""
    return np.arange(count)[None]


def dense_to_places(count: int) -> Table:
    """Table of a dense layer from one place to all, with one set of weights a place."""
    return np.where(np.eye(count, dtype=bool), 0, -1)


def place_indices(rows: Table, columns: Table, height: int, width: int) -> Table:
    """Numbers of places by row and column; -1 outside the border."""
    return np.where((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width), rows * width + columns, -1)


def reverse(table: Table, places_in: int) -> Table:
    """Table of the gradient of the input: the output place that each input place and set contribute to."""
    reversed_table = np.full((places_in, table.shape[1]), -1)
    outputs, sets = np.nonzero(table >= 0)
    reversed_table[table[outputs, sets], sets] = outputs
    return reversed_table


def build_plan(
    table: Table, border_place: int, size: int, *, single_phase: bool = False
) -> list[npt.NDArray[np.int32]]:
    """Arrays of the `Plan` in network.c, for input places of `size` numbers.

    Output places that use the same sets of weights form a phase. With `single_phase`, as pooling needs it, there is one
    phase of all in their order, and missing taps read from `border_place`, which holds zeros.
    """
    if single_phase:
        phase = np.zeros(len(table), dtype=np.int64)
    else:
        mask = np.packbits(table >= 0, axis=1)
        # Each row becomes one value, so that whole rows are compared.
        patterns = np.ascontiguousarray(mask).view(np.dtype((np.void, mask.shape[1])))
        phase = np.unique(patterns, return_inverse=True)[1].reshape(-1)
    order = np.argsort(phase, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(phase[order])) + 1)
    taps = [np.flatnonzero((table[members] >= 0).any(axis=0)) for members in rows]
    index = [table[np.ix_(members, sets)].reshape(-1) for members, sets in zip(rows, taps, strict=True)]
    flat = np.concatenate(index)
    arrays = (
        offsets(rows), np.concatenate(rows), offsets(taps), np.concatenate(taps),
        offsets(index), size * np.where(flat < 0, border_place, flat),
    )  # fmt: skip
    return [np.ascontiguousarray(array, dtype=np.int32) for array in arrays]


def offsets(parts: list[Table]) -> Table:
    """Offset at which each part begins, and at which the last one ends."""
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])])
