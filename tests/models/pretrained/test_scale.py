"""The scale of normal images."""

from __future__ import annotations

import pytest
import torch

from oddlens.models.pretrained.scale import MIN_SPREAD, Scale


def test_values_are_in_deviations_from_their_mean_on_normal_images() -> None:
    scale = Scale(1.0)
    scale.fit(torch.tensor([1.0, 3.0, 5.0]))
    assert scale(torch.tensor([3.0, 5.0])).tolist() == pytest.approx([0.0, 1.0])


def test_values_that_are_all_the_same_have_a_finite_gain() -> None:
    scale = Scale(1.0)
    scale.fit(torch.full((4,), 2.0))
    assert float(scale.gain) == pytest.approx(1 / MIN_SPREAD)
    assert float(scale(torch.tensor([2.0]))) == 0.0


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_before_fitting_values_are_multiplied(gain: float) -> None:
    assert float(Scale(gain)(torch.tensor([3.0]))) == 3.0 * gain


def test_a_deviation_may_have_a_minimum() -> None:
    scale = Scale(1.0)
    scale.fit(torch.tensor([1.0, 1.01]), min_spread=0.5)
    assert float(scale.gain) == pytest.approx(2.0)
