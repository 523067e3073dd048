"""Probabilities of so many images above one of the calibration images: exact, and in decimals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oddlens.conformal.exceedance import lot_p_value, max_rank_above


@pytest.mark.parametrize(("n_units", "n_normal"), [(1, 1), (1, 6), (2, 5), (7, 4), (8, 9)])
def test_the_p_value_is_the_share_of_orders_with_as_many_images_above_the_median(n_units: int, n_normal: int) -> None:
    """Counted in the other way: the places of the units among all, the h-th highest of them after k images."""
    h, total = max_rank_above(n_units), math.comb(n_units + n_normal, n_units)
    ways = [math.comb(h + k - 1, k) * math.comb(n_units - h + n_normal - k, n_normal - k) for k in range(n_normal + 1)]
    assert sum(ways) == total
    for n_above in range(n_normal + 1):
        assert lot_p_value(n_above, n_normal, n_units, 0.0) == pytest.approx(sum(ways[n_above:]) / total, rel=1e-12)


def test_anomalous_images_are_taken_to_be_above_the_median() -> None:
    assert lot_p_value(40, 100, 99, 0.4) == 1.0
    assert lot_p_value(70, 100, 99, 0.1) == lot_p_value(60, 90, 99, 0.0)


def test_the_largest_number_of_anomalous_images_is_counted_in_decimals() -> None:
    assert 0.29 * 100 < 29
    assert lot_p_value(80, 100, 50, 0.29) == lot_p_value(51, 71, 50, 0.0)


@pytest.mark.parametrize("n_units", [1, 99, 100_000])
def test_a_million_images_give_a_p_value(n_units: int) -> None:
    values = [lot_p_value(n, 1_000_000, n_units) for n in (0, 450_000, 550_000, 700_000, 1_000_000)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert 0 <= values[-1] < 0.6
    assert np.isfinite(values).all()
