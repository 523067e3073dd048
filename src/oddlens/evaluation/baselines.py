"""The trivial baseline: how far an image's thumbnail lies from the nearest normal one, without learning anything."""

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
    """How thumbnails are made; normalised ones find a part again that was photographed in another light."""

    side: int
    normalized: bool = False

    def __str__(self) -> str:
        return f"{self.side} normalised" if self.normalized else f"{self.side}"


THUMBNAIL_KINDS = tuple(ThumbnailKind(side, normalized) for normalized in (False, True) for side in (8, 32))
SMALLEST_KINDS = tuple(
    kind for kind in THUMBNAIL_KINDS if kind.side == 8
)  # too small for anything but near-copies and plain sights


def make_thumbnails(pixels: Pixels, kind: ThumbnailKind, spec: InputSpec) -> Thumbnails:
    """(N, H, W, C) pixels -> (N, side * side * C) thumbnails, in 0..1 or normalised."""
    small = ImageSet.from_array(pixels).load(spec.model_copy(update={"height": kind.side, "width": kind.side}))
    rows = (small.reshape(len(small), -1) / np.float32(spec.value_max)).astype(np.float32)
    return normalize_rows(rows) if kind.normalized else rows


def normalize_rows(rows: Thumbnails) -> Thumbnails:
    """(N, D): each with mean 0 and length 1; one of a single colour becomes zero."""
    centred: Thumbnails = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.where(lengths > 1e-6, lengths, np.inf)
    return centred


def nearest_distances(known: Thumbnails, new: Thumbnails, block: int = 512) -> Distances:
    """(N, D) and (M, D) -> (M,): root mean square difference from the nearest of N; found by products, then exact."""
    halves, found = np.square(known).sum(axis=1) / 2, np.empty(len(new))
    for start in range(0, len(new), block):
        part = new[start : start + block]
        closest = known[np.argmax(part @ known.T - halves, axis=1)]
        found[start : start + block] = np.sqrt(np.square(part.astype(np.float64) - closest).mean(axis=1))
    return found
