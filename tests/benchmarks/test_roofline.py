"""Tests of the roofline benchmark."""

from __future__ import annotations

import numpy as np
import pytest
import roofline
import torch
from operations import Layer

from oddlens.config.base import InputSpec
from oddlens.errors import OddlensError
from oddlens.recipes.run import find_recipe, override

CPU = torch.device("cpu")


def test_seconds_are_those_of_one_call() -> None:
    calls = []
    took = roofline.seconds(lambda: calls.append(torch.ones(10)), CPU)
    assert 0 < took < roofline.MIN_SECONDS
    assert len(calls) > roofline.TRIES


def test_convolutions_are_measured_in_both_layouts_and_as_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "MIN_SECONDS", 1e-4)
    rates = roofline.rates(Layer("convolution", 2, 3, 6, 6, 3), torch.float32, 4, CPU)
    forms = [rate.how.removesuffix(", batch 4") for rate in rates]
    assert forms == ["product", "convolution, contiguous", "convolution, channels last"]
    assert all(rate.value > 0 for rate in rates)
    assert len(roofline.rates(Layer("linear", 4, 5), torch.float32, 4, CPU)) == 1


def test_row_relates_a_step_to_its_best_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("linear", 10, 10)  # 200 operations
    monkeypatch.setattr(roofline, "best_rate", lambda *arguments: roofline.Rate(4000.0, "product"))
    step = roofline.Step("recipe", "score", [(layer, layer.operations)], 10, 1.0, "fp32")
    row = roofline.row(step, CPU)
    assert row[8] == "**50%**"
    assert row[10] == "50%"


def test_random_images_fill_the_value_range_within_the_memory_limit() -> None:
    pixels = roofline.noise(InputSpec(height=64, width=64, channels=1, value_max=4095))
    assert pixels.dtype == np.uint16
    assert pixels.max() == 4095
    assert roofline.noise(InputSpec(height=1024, width=1024, channels=3, value_max=255)).nbytes <= 2**28


def test_recipes_of_other_families_are_rejected() -> None:
    recipe = override(find_recipe("digits"), epochs=None, seed=None, detector="dictionary")
    with pytest.raises(OddlensError, match="autoencoders only, not for dictionary"):
        roofline.settings_of(recipe)
