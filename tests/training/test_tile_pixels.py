"""Training tiles: in the order of the images, as many of each."""

from __future__ import annotations

import numpy as np
import pytest

from oddlens.config.base import InputSpec, Tiling
from oddlens.data.image_io import Pixels
from oddlens.inference.tiling import TileGrid
from oddlens.training import tile_pixels
from oddlens.training.tile_pixels import training_tiles

SPEC = InputSpec(height=8, width=24, channels=1)
GRID = TileGrid(SPEC, Tiling(height=8, width=8, overlap=4))  # five tiles


@pytest.fixture
def images() -> Pixels:
    """Ten images, each with the number of its column added to ten times its own."""
    pixels = (np.arange(10)[:, None, None, None] * 24 + np.arange(24)[:, None]).astype(np.uint8)
    return np.tile(pixels, (1, 8, 1, 1))


def test_the_tiles_of_each_image_follow_one_another(images: Pixels) -> None:
    tiles, count = training_tiles(images, GRID, 0)
    assert (count, tiles.shape, str(tiles.dtype)) == (5, (50, 8, 8, 1), "uint8")
    np.testing.assert_array_equal(tiles[:, 0, 0, 0] // 24, np.arange(50) // 5)
    np.testing.assert_array_equal(tiles[:, 0, 0, 0] % 24, np.tile([0, 4, 8, 12, 16], 10))


def test_of_too_many_tiles_each_image_and_place_has_the_same_number(
    images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_pixels, "MAX_TRAINING_PIXELS", 25 * 64)
    tiles, count = training_tiles(images, GRID, 0)
    assert (count, len(tiles)) == (2, 20)
    np.testing.assert_array_equal(tiles[:, 0, 0, 0] // 24, np.arange(20) // 2)
    places = tiles[:, 0, 0, 0] % 24
    np.testing.assert_array_equal(np.unique(places, return_counts=True)[1], [4] * 5)
    assert (places.reshape(10, 2)[:, 0] < places.reshape(10, 2)[:, 1]).all()
    np.testing.assert_array_equal(training_tiles(images, GRID, 0)[0], tiles)
    assert (training_tiles(images, GRID, 1)[0] != tiles).any()


def test_of_very_many_images_each_has_a_tile(images: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_pixels, "MAX_TRAINING_PIXELS", 64)
    tiles, count = training_tiles(images, GRID, 0)
    assert (count, len(tiles)) == (1, 10)


def test_no_images_have_no_tiles(images: Pixels) -> None:
    assert len(training_tiles(images[:0], GRID, 0)[0]) == 0


def test_pixels_outside_the_region_are_black_and_tiles_outside_are_left_out(images: Pixels) -> None:
    roi = np.tile(np.arange(24) < 6, (8, 1))
    tiles, count = training_tiles(images + 1, TileGrid(SPEC, GRID.tiling, roi), 0)
    assert count == 2  # at 0 and at 4
    assert (tiles[0, :, 6:] == 0).all()
    assert (tiles[0, :, :6] > 0).all()
    assert (tiles[1, :, 2:] == 0).all()
