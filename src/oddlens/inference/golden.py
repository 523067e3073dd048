"""Golden scores: scores of four synthetic images, by which a loaded file is verified to score as it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oddlens.config.base import InputSpec
from oddlens.config.manifest import Manifest
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError
from oddlens.inference.backend import Backend
from oddlens.inference.scoring import anomaly_scores
from oddlens.inference.tiling import graph_backend

GOLDEN_TOLERANCE = {  # relative; processors and versions differ by far less
    "fp32": 1e-3,
    "bf16": 0.1,  # rounding alone moves these scores by up to 6%; the digest guards the rest
}


def golden_pixels(spec: InputSpec) -> Pixels:
    """Four synthetic images (4, H, W, C): black, a ramp, a checkerboard, and hashed noise.

    They are computed in integer arithmetic and are the same on every machine.
    """
    rows, columns, channels = np.indices((spec.height, spec.width, spec.channels), dtype=np.uint64)
    black = np.zeros_like(rows)
    ramp = (rows * spec.width + columns) * spec.value_max // (spec.height * spec.width)
    checkers = ((rows // 4 + columns // 4 + channels) % 2) * spec.value_max
    noise = ((rows * 7919 + columns * 104729 + channels * 1299709 + 12345) * 2654435761 >> 7) % (spec.value_max + 1)
    pixels: Pixels = np.stack([black, ramp, checkers, noise]).astype(spec.dtype)
    return pixels


def golden_scores(backend: Backend) -> tuple[float, ...]:
    """Scores of the golden images, which have the size of one tile where there are tiles."""
    backend = graph_backend(backend)
    return tuple(anomaly_scores(backend, [golden_pixels(backend.spec)]).tolist())


def check_golden(path: Path, backend: Backend, manifest: Manifest) -> None:
    """Verify that a loaded detector reproduces its golden scores.

    Raises:
        ArtifactError: it does not.
    """
    scores, tolerance = golden_scores(backend), GOLDEN_TOLERANCE[manifest.runtime.precision]
    if len(scores) != len(manifest.golden) or not np.allclose(scores, manifest.golden, rtol=tolerance, atol=1e-7):
        raise ArtifactError(
            f"{path}: scores the built-in test images {np.round(scores, 6).tolist()}, but gave "
            f"{np.round(manifest.golden, 6).tolist()} when it was made; fit or export it again on this machine"
        )
