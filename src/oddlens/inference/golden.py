"""Golden scores: what a detector gives four synthetic images, so that a loaded file proves that it scores the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oddlens.config.base import InputSpec
from oddlens.config.manifest import Manifest
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError
from oddlens.inference.backend import Backend
from oddlens.inference.scoring import anomaly_scores


def golden_pixels(spec: InputSpec) -> Pixels:
    """Four synthetic pictures (4, H, W, C) on which a detector file proves that it still scores the same.

    Black, a ramp, a checkerboard, and hashed noise: made by integer arithmetic, the same everywhere.
    """
    rows, columns, channels = np.indices((spec.height, spec.width, spec.channels), dtype=np.uint64)
    black = np.zeros_like(rows)
    ramp = (rows * spec.width + columns) * spec.value_max // (spec.height * spec.width)
    checkers = ((rows // 4 + columns // 4 + channels) % 2) * spec.value_max
    noise = ((rows * 7919 + columns * 104729 + channels * 1299709 + 12345) * 2654435761 >> 7) % (spec.value_max + 1)
    pixels: Pixels = np.stack([black, ramp, checkers, noise]).astype(spec.dtype)
    return pixels


GOLDEN_TOLERANCE = {  # relative; processors and versions differ by far less
    "fp32": 1e-3,
    "bf16": 0.1,  # rounding alone moves the scores of such odd pictures by up to 6%; the digest guards the rest
}


def golden_scores(backend: Backend) -> tuple[float, ...]:
    """What a detector gives its built-in synthetic pictures."""
    return tuple(anomaly_scores(backend, [golden_pixels(backend.spec)]).tolist())


def check_golden(path: Path, backend: Backend, manifest: Manifest) -> None:
    """A loaded detector gives its own golden scores again.

    Raises:
        ArtifactError: it does not.
    """
    scores, tolerance = golden_scores(backend), GOLDEN_TOLERANCE[manifest.runtime.precision]
    if len(scores) != len(manifest.golden) or not np.allclose(scores, manifest.golden, rtol=tolerance, atol=1e-7):
        raise ArtifactError(
            f"{path}: scores its built-in test pictures {np.round(scores, 6).tolist()}, but gave "
            f"{np.round(manifest.golden, 6).tolist()} when it was made; fit or export it again on this machine"
        )
