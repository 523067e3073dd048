"""Features of the frozen backbone as arrays."""

from __future__ import annotations

import numpy as np
import pytest
from pretrained_extra import needs_pretrained

from oddlens.inference.frozen_features import FrozenFeatures

pytestmark = needs_pretrained


@pytest.mark.parametrize(("pooled", "grid"), [(False, (2, 3)), (True, (1, 1))])
def test_there_is_one_place_for_32_pixels_or_for_the_image(pooled: bool, grid: tuple[int, int]) -> None:
    pixels = np.zeros((2, 20, 30, 1), dtype=np.uint8)
    features = FrozenFeatures((10, 14), pooled=pooled)(pixels, 255, (64, 80))
    assert [part.shape for part in features] == [(2, *grid, 112), (2, *grid, 192)]


def test_features_depend_on_what_is_shown_and_not_on_the_value_range() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    network = FrozenFeatures((14,), pooled=True)
    (features,) = network(pixels, 255, (64, 64))
    (deep,) = network(pixels.astype(np.uint16) * 257, 65535, (64, 64))
    assert np.isfinite(features).all()
    assert np.abs(features[0].astype(float) - features[1].astype(float)).max() > 0.05
    assert features.astype(float) == pytest.approx(deep.astype(float), abs=2e-3)
