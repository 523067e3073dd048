"""The images that the scale of features comes from."""

from __future__ import annotations

import numpy as np
import pytest

from oddlens.models.backbones.reference_images import reference_images


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (64, 48)])
def test_they_are_the_same_each_time_and_in_the_range_of_pixels(height: int, width: int) -> None:
    images = reference_images(3, height, width)
    assert images.shape == (3, 3, height, width)
    assert images.min() >= 0
    assert images.max() <= 1
    np.testing.assert_array_equal(images, reference_images(3, height, width))


def test_they_have_detail_at_all_scales_and_colour() -> None:
    images = reference_images(8, 64, 64)
    for side in (1, 4, 16):
        coarse = images.reshape(8, 3, 64 // side, side, 64 // side, side).mean(axis=(3, 5))
        assert np.abs(np.diff(coarse, axis=3)).mean() > 0.05
    assert np.abs(images[:, 0] - images[:, 1]).mean() > 0.1
