"""The tables and plans of the kernels, compared with PyTorch's convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oddlens_kernels import plans


def apply_table(table: plans.Table, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Output of a layer with this table: (input places, C), (sets, C, N) -> (output places, N)."""
    padded = np.vstack([values, np.zeros_like(values[:1])])  # place -1
    result: np.ndarray = np.einsum("psc,scn->pn", padded[table], weights)
    return result


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-3, 4, shape).astype(np.float64)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_strided_table_is_a_convolution(stride: int) -> None:
    values, weights = random(6 * 8, 4), random(9, 4, 5)
    image = torch.from_numpy(values).T.reshape(1, 4, 6, 8)
    kernel = torch.from_numpy(weights).permute(2, 1, 0).reshape(5, 4, 3, 3)
    expected = F.conv2d(image, kernel, stride=stride, padding=1)[0].flatten(1).T
    np.testing.assert_array_equal(apply_table(plans.strided_convolution(6, 8, stride), values, weights), expected)


def test_a_transposed_table_is_a_transposed_convolution() -> None:
    values, weights = random(3 * 5, 4), random(16, 4, 2)
    image = torch.from_numpy(values).T.reshape(1, 4, 3, 5)
    kernel = torch.from_numpy(weights).permute(1, 2, 0).reshape(4, 2, 4, 4)
    expected = F.conv_transpose2d(image, kernel, stride=2, padding=1)[0].flatten(1).T
    np.testing.assert_array_equal(apply_table(plans.transposed_convolution(3, 5), values, weights), expected)


def test_corners_and_their_pixels_are_a_transposed_convolution() -> None:
    values, kernel = random(3 * 5, 4), random(4, 2, 4, 4)
    image = torch.from_numpy(values).T.reshape(1, 4, 3, 5)
    expected = F.conv_transpose2d(image, torch.from_numpy(kernel), stride=2, padding=1)[0].permute(1, 2, 0).numpy()
    weights = np.empty((4, 4, 8))  # places around a corner, channels, and those of the pixels around it
    for place, pixel in np.ndindex(4, 4):
        (below, right_of), (down, right) = divmod(place, 2), divmod(pixel, 2)
        weights[place, :, 2 * pixel : 2 * pixel + 2] = kernel[:, :, 2 - 2 * below + down, 2 - 2 * right_of + right]
    outputs = apply_table(plans.corners(3, 5), values, weights)
    result, n_inside = np.full(expected.size, np.nan), 0
    for numbers, (begin, inside) in zip(outputs, plans.corner_pixels(3, 5, 2).tolist(), strict=True):
        for lane in range(8):
            if inside >> lane & 1:
                result[begin + lane % 4 + (20 if lane >= 4 else 0)] = numbers[lane]
                n_inside += 1
    assert n_inside == expected.size
    np.testing.assert_array_equal(result, expected.reshape(-1))


def test_pooled_places_are_numbered_window_by_window() -> None:
    rows, columns = plans.place_coordinates(4, 6, pooled=True)
    windows = np.stack([rows // 2, columns // 2], axis=1).reshape(6, 4, 2)
    assert (windows == windows[:, :1]).all()
    assert [tuple(window[0]) for window in windows] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(y, x) for y in range(4) for x in range(6)]


TABLES = {
    "convolution": (plans.strided_convolution(6, 8, 1), 48),
    "pooled": (plans.strided_convolution(6, 8, 1, pooled=True), 48),
    "pooled to one place": (plans.strided_convolution(2, 2, 1, pooled=True), 4),
    "pooled to a line": (plans.strided_convolution(2, 6, 1, pooled=True), 12),
    "strided": (plans.strided_convolution(6, 8, 2), 48),
    "one place": (plans.strided_convolution(2, 2, 2), 4),
    "transposed": (plans.transposed_convolution(3, 5), 15),
    "corners": (plans.corners(3, 5), 15),
    "from places": (plans.dense_from_places(7), 7),
    "to places": (plans.dense_to_places(7), 1),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_reversed_table_gives_the_gradient_of_the_input(name: str) -> None:
    table, places = TABLES[name]
    weights = random(table.shape[1], 3, 2)
    values, gradients = random(places, 3), random(len(table), 2)
    input_gradients = apply_table(plans.reverse(table, places), gradients, weights.swapaxes(1, 2))
    assert (apply_table(table, values, weights) * gradients).sum() == (values * input_gradients).sum()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_plan_contains_exactly_the_entries_of_its_table(name: str, direction: str) -> None:
    table, places = TABLES[name]
    if direction == "backward":
        table, places = plans.reverse(table, places), len(table)
    single_phase = "pooled" in name and direction == "forward"
    row_starts, rows, tap_starts, taps, index_starts, index = plans.build_plan(
        table, places, 7, single_phase=single_phase
    )
    result = np.full(table.shape, -1)
    for phase in range(len(row_starts) - 1):
        outputs, sets = rows[slice(*row_starts[phase : phase + 2])], taps[slice(*tap_starts[phase : phase + 2])]
        offsets = index[slice(*index_starts[phase : phase + 2])].reshape(len(outputs), len(sets))
        assert single_phase or (offsets < 7 * places).all(), "a tap outside the border is multiplied"
        result[np.ix_(outputs, sets)] = np.where(offsets == 7 * places, -1, offsets // 7)
    np.testing.assert_array_equal(result, table)
    assert sorted(rows.tolist()) == list(range(len(table)))
    if single_phase:
        assert rows.tolist() == list(range(len(table)))
    assert len(row_starts) - 1 == (1 if single_phase else len(np.unique(table >= 0, axis=0)))
