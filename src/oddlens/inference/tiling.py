"""Tiles: images larger than what a model takes are cut into tiles, which it scores, and their maps are joined.

The image score is the largest score of a tile. Maps are blended with weights that fall off linearly towards the borders
between tiles and add up to 1 at each pixel, so that there are no seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec, Tiling
from oddlens.data.image_io import Pixels
from oddlens.inference.backend import Backend, Floats, Predictions

BATCH_PIXELS = 2**18  # of the tiles that are scored together: their activations must fit into memory

Region = npt.NDArray[np.bool_]  # (H, W) of interest: the pixels that count


class TileGrid:
    """The tiles of images of one form, in rows from the top left; those without a pixel of interest are left out.

    Pixels outside the region of interest are 0 in the tiles, as a model sets them to 0 in whole images.
    """

    def __init__(self, spec: InputSpec, tiling: Tiling, roi: Region | None = None) -> None:
        self.spec, self.tiling, self.roi = spec, tiling, roi
        self.tile_spec = tiling.tile_spec(spec)
        tops, lefts = tiling.tops(spec), tiling.lefts(spec)
        self._row_weights = blend_weights(tops, tiling.height)
        self._column_weights = blend_weights(lefts, tiling.width)
        places = [(top, left) for top in tops for left in lefts]
        weights = [(row, column) for row in range(len(tops)) for column in range(len(lefts))]
        inside = [i for i, place in enumerate(places) if roi is None or roi[self._area(*place)].any()]
        self._places, self._weights = [places[i] for i in inside], [weights[i] for i in inside]

    def __len__(self) -> int:
        return len(self._places)

    def _area(self, top: int, left: int) -> tuple[slice, slice]:
        return slice(top, top + self.tiling.height), slice(left, left + self.tiling.width)

    def cut(self, image: Pixels, index: Sequence[int]) -> Pixels:
        """Some tiles (n, height, width, C) of an image (H, W, C), by their numbers."""
        areas = [self._area(*self._places[i]) for i in index]
        tiles = np.stack([image[area] for area in areas])
        if self.roi is not None:
            tiles = tiles * np.stack([self.roi[area] for area in areas])[..., None]
        return cast(Pixels, tiles)

    def batches(self) -> Iterator[range]:
        """The numbers of all tiles, as many at a time as are scored together."""
        size = max(1, BATCH_PIXELS // (self.tiling.height * self.tiling.width))
        return (range(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def blend(self, maps: Floats, index: Sequence[int], target: Floats) -> None:
        """Add the maps (n, height, width) of some tiles, weighted, to the map (H, W) of the image."""
        for tile_map, i in zip(maps, index, strict=True):
            row, column = self._weights[i]
            weights = self._row_weights[row][:, None] * self._column_weights[column]
            target[self._area(*self._places[i])] += tile_map * weights


def blend_weights(starts: Sequence[int], side: int) -> Floats:
    """Weight of each pixel of tiles along one axis, (tiles, side), which add up to 1 where tiles overlap."""
    inner = np.arange(side) + 0.5
    raw = np.ones((len(starts), side))
    for number, (before, after) in enumerate(pairwise(starts)):
        shared = before + side - after
        if shared:
            raw[number + 1] = np.minimum(raw[number + 1], inner / shared)
            raw[number] = np.minimum(raw[number], inner[::-1] / shared)
    total = np.zeros(starts[-1] + side)
    for start, weights in zip(starts, raw, strict=True):
        total[start : start + side] += weights
    return np.stack([w / total[s : s + side] for s, w in zip(starts, raw, strict=True)]).astype(np.float32)


class TiledBackend:
    """Scores images tile by tile in another runtime, which has the scoring graph of one tile.

    The tiles of each image are scored by themselves, a few at a time, so that scores do not depend on the batch and
    memory is bounded by the maps of the images. There are no reconstructions.
    """

    def __init__(self, inner: Backend, grid: TileGrid) -> None:
        self.inner, self.grid = inner, grid

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return self.inner.name

    @property
    def spec(self) -> InputSpec:
        """The form of the images that it scores."""
        return self.grid.spec

    @property
    def streams(self) -> int:
        """Number of batches of images to score at the same time."""
        return self.inner.streams

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score images (N, H, W, C) with all threads."""
        return self._score(self.inner, pixels)

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        """Score images (N, H, W, C) in the calling thread."""
        return self._score(self.inner.score_single_threaded, pixels)

    def _score(self, score: Callable[[Pixels], Predictions], pixels: Pixels) -> Predictions:
        scores, maps = np.empty(len(pixels)), list[Floats]()
        for number, image in enumerate(pixels):
            tile_scores, image_map = list[npt.NDArray[np.float64]](), None
            for index in self.grid.batches():
                outputs = score(self.grid.cut(image, index))
                tile_scores.append(outputs.anomaly_score)
                if outputs.anomaly_map is not None:
                    image_map = np.zeros(image.shape[:2], np.float32) if image_map is None else image_map
                    self.grid.blend(outputs.anomaly_map, index, image_map)
            scores[number] = np.concatenate(tile_scores).max()
            if image_map is not None:
                maps.append(
                    image_map if self.grid.roi is None else np.multiply(image_map, self.grid.roi, out=image_map)
                )
        stacked = maps[0][None] if len(maps) == 1 else np.stack(maps) if maps else None
        return Predictions(scores, stacked, None)


def with_tiles(
    backend: Backend, spec: InputSpec, tiling: Tiling | None, roi: npt.NDArray[np.generic] | None
) -> Backend:
    """A backend of images of the form `spec`, around that of one tile; the backend itself without tiling."""
    if tiling is None:
        return backend
    return TiledBackend(backend, TileGrid(spec, tiling, None if roi is None else roi.astype(bool)))


def graph_backend(backend: Backend) -> Backend:
    """The runtime that holds the scoring graph: that of one tile, or the backend itself without tiling."""
    return backend.inner if isinstance(backend, TiledBackend) else backend
