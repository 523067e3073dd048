"""Tests of the benchmark of light, shifts, turns and blur."""

from __future__ import annotations

import light
import numpy as np
import pytest


@pytest.mark.parametrize("name", light.CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_changes_give_images_of_the_same_form(name: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, channels), dtype=np.uint8)
    changed = light.CHANGES[name](pixels)
    assert (changed.shape, changed.dtype) == (pixels.shape, pixels.dtype)
    assert np.array_equal(changed, pixels) == (name == "as they are")


def test_a_factor_is_that_of_its_name() -> None:
    pixels = np.full((1, 8, 8, 1), 100, dtype=np.uint8)
    values = {name: int(change(pixels)[0, 4, 4, 0]) for name, change in light.CHANGES.items()}
    assert values["brightness x0.85"] == 85
    assert values["brightness x1.15"] == 115


def test_shifted_images_repeat_their_edge() -> None:
    pixels = np.arange(10, dtype=np.uint8).reshape(1, 1, 10, 1)
    assert light.shifted(pixels).ravel().tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_turned_images_have_no_new_corners() -> None:
    pixels = np.full((1, 40, 60, 3), 200, dtype=np.uint8)
    pixels[:, 10:20, 25:35] = 90
    (name,) = (name for name in light.CHANGES if name.startswith("turned"))
    changed = light.CHANGES[name](pixels)
    np.testing.assert_array_equal(changed[0, :5, :5], 200)
    assert (changed != pixels).any()
    assert np.isclose((changed < 145).mean(), (pixels < 145).mean(), rtol=0.1)
