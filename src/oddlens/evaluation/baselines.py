"""A trivial baseline without training: the distance of an image's thumbnail to the nearest normal thumbnail."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet

Thumbnails = npt.NDArray[np.float32]  # (N, side * side * C)
Distances = npt.NDArray[np.float64]


class ThumbnailKind(NamedTuple):
    """How to make thumbnails; normalized ones do not depend on an image's brightness and contrast."""

    side: int
    normalized: bool = False

    def __str__(self) -> str:
        return f"{self.side} normalised" if self.normalized else f"{self.side}"


THUMBNAIL_KINDS = tuple(ThumbnailKind(side, normalized) for normalized in (False, True) for side in (8, 32))
# So small that they detect only near-duplicates and obvious anomalies.
SMALLEST_KINDS = tuple(kind for kind in THUMBNAIL_KINDS if kind.side == 8)


def make_thumbnails(pixels: Pixels, kind: ThumbnailKind, spec: InputSpec) -> Thumbnails:
    """Reduce (N, H, W, C) pixels to (N, side * side * C) thumbnails, in 0..1 or normalized."""
    small = ImageSet.from_array(pixels).load(spec.model_copy(update={"height": kind.side, "width": kind.side}))
    rows = (small.reshape(len(small), -1) / np.float32(spec.value_max)).astype(np.float32)
    return normalize_rows(rows) if kind.normalized else rows


def normalize_rows(rows: Thumbnails) -> Thumbnails:
    """Scale each row of (N, D) to mean 0 and length 1; a row of a single value becomes zero."""
    centered: Thumbnails = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    centered /= np.where(lengths > 1e-6, lengths, np.inf)
    return centered


def nearest_distances(reference: Thumbnails, queries: Thumbnails, block: int = 512) -> Distances:
    """(M,) root mean square difference of each of (M, D) `queries` from the nearest of (N, D) `reference` rows.

    Matrix products select the nearest row, `block` queries at a time; its distance is then computed in float64.
    """
    halves, distances = np.square(reference).sum(axis=1) / 2, np.empty(len(queries))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        nearest = reference[np.argmax(part @ reference.T - halves, axis=1)]
        distances[start : start + block] = np.sqrt(np.square(part.astype(np.float64) - nearest).mean(axis=1))
    return distances
