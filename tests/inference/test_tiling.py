"""Tiles: they cover images exactly, scores are those of the most anomalous tile, and maps have no seams."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlens.config.base import InputSpec, Tiling, tile_starts
from oddlens.data.image_io import Pixels
from oddlens.inference import tiling as tiling_module
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import anomaly_scores, in_batches
from oddlens.inference.tiling import Region, TiledBackend, TileGrid, blend_weights, graph_backend, with_tiles

SPEC = InputSpec(height=20, width=30, channels=1)
TILING = Tiling(height=8, width=12, overlap=3)
TILE_SPEC = TILING.tile_spec(SPEC)


class Levels:
    """A backend whose map is the image, and whose score is the largest value; it notes the size of each batch."""

    name = "levels"
    streams = 2

    def __init__(self, *, has_map: bool = True, spec: InputSpec = TILE_SPEC) -> None:
        self.has_map, self.sizes, self.spec = has_map, list[int](), spec

    def __call__(self, pixels: Pixels) -> Predictions:
        assert pixels.shape[1:] == (self.spec.height, self.spec.width, 1)
        assert pixels.dtype == np.uint8
        self.sizes.append(len(pixels))
        values = pixels[..., 0].astype(np.float32)
        scores = values.max(axis=(1, 2)).astype(np.float64)
        return Predictions(scores, values if self.has_map else None, pixels.astype(np.float32))

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        return self(pixels)


def tiled(roi: Region | None = None, *, has_map: bool = True) -> TiledBackend:
    return TiledBackend(Levels(has_map=has_map), TileGrid(SPEC, TILING, roi))


@pytest.fixture
def images(rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, (3, 20, 30, 1), dtype=np.uint8)


@settings(deadline=None)
@given(st.integers(4, 300), st.integers(4, 300), st.integers(0, 300))
def test_weights_of_tiles_add_up_to_one_at_each_pixel(side: int, tile: int, overlap: int) -> None:
    starts = tile_starts(max(side, tile), tile, overlap)
    weights, total = blend_weights(starts, tile), np.zeros(max(side, tile))
    for start, row in zip(starts, weights, strict=True):
        total[start : start + tile] += row
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    assert (weights > 0).all()


def test_weights_fall_off_linearly_towards_inner_borders_alone() -> None:
    first, second = blend_weights([0, 6], 10)
    np.testing.assert_allclose(first, [1, 1, 1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(second, first[::-1])


def test_maps_are_joined_without_seams(images: Pixels) -> None:
    outputs = tiled()(images)
    assert outputs.anomaly_map is not None
    assert outputs.anomaly_map.dtype == np.float32
    np.testing.assert_allclose(outputs.anomaly_map, images[..., 0], rtol=1e-5)
    assert outputs.reconstruction is None


def test_the_score_of_an_image_is_that_of_its_most_anomalous_tile(images: Pixels) -> None:
    for backend in (tiled(), tiled(has_map=False)):
        np.testing.assert_array_equal(backend(images).anomaly_score, images.max(axis=(1, 2, 3)))
        np.testing.assert_array_equal(backend.score_single_threaded(images).anomaly_score, images.max(axis=(1, 2, 3)))
    assert tiled(has_map=False)(images).anomaly_map is None


def test_nothing_outside_the_region_counts_and_tiles_outside_are_not_scored(images: Pixels) -> None:
    roi = np.zeros((20, 30), dtype=bool)
    roi[:4, :4] = True
    backend = tiled(roi)
    assert (len(backend.grid), len(tiled().grid)) == (1, 12)
    outputs = backend(images)
    np.testing.assert_array_equal(outputs.anomaly_score, images[:, :4, :4].max(axis=(1, 2, 3)))
    assert outputs.anomaly_map is not None
    np.testing.assert_allclose(outputs.anomaly_map, images[..., 0] * roi, rtol=1e-5)
    assert images[:, 5:].any()  # the images themselves stay as they are


def test_few_tiles_are_scored_at_a_time_and_each_image_by_itself(
    images: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling_module, "BATCH_PIXELS", 5 * 8 * 12)
    inner = Levels()
    scores = anomaly_scores(TiledBackend(inner, TileGrid(SPEC, TILING)), in_batches(images, 2))
    assert inner.sizes == [5, 5, 2] * 3
    np.testing.assert_array_equal(scores, images.max(axis=(1, 2, 3)))


def test_a_tile_that_is_larger_than_a_batch_is_scored_alone(images: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling_module, "BATCH_PIXELS", 10)
    inner = Levels()
    TiledBackend(inner, TileGrid(SPEC, TILING))(images[:1])
    assert inner.sizes == [1] * 12


def test_memory_is_bounded_by_the_map_and_not_by_the_number_of_tiles(rng: np.random.Generator) -> None:
    spec, tiling = InputSpec(height=3000, width=4000, channels=1), Tiling(height=128, width=128, overlap=64)
    backend = TiledBackend(Levels(spec=tiling.tile_spec(spec)), TileGrid(spec, tiling))
    image = rng.integers(0, 256, (1, 3000, 4000, 1), dtype=np.uint8)
    tracemalloc.start()
    outputs = backend(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outputs.anomaly_map is not None
    assert peak < 1.5 * outputs.anomaly_map.nbytes  # the maps of all tiles would be four times as large


def test_without_tiling_a_backend_stays_as_it_is() -> None:
    inner = Levels()
    assert with_tiles(inner, SPEC, None, None) is inner
    assert graph_backend(inner) is inner
    backend = with_tiles(inner, SPEC, TILING, np.ones((20, 30), np.uint8))
    assert graph_backend(backend) is inner
    assert (backend.name, backend.streams, backend.spec) == ("levels", 2, SPEC)
