"""The one scoring path: fitting, calibration, scoring, evaluation, reports and exports all score here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.ordered_pool import OrderedPool
from oddlens.errors import ArtifactError, ImageError
from oddlens.inference.backend import Backend, Predictions

MAX_BATCH = 256
BATCH_PIXELS = 2**21  # a batch of 128 at 128 x 128


def score_batches(backend: Backend, batches: Iterable[Pixels]) -> Iterator[Predictions]:
    """Score batches of pixels (B, H, W, C), in order; an empty batch has no scores.

    Full batches are scored concurrently, one thread each, where that is faster than one after the other with all
    threads (`Backend.streams`); smaller ones are not. Which way a batch goes depends on the batch alone, so scores do
    not depend on what else there is to score. A few batches are read ahead.

    Raises:
        ArtifactError: the detector gives a score that is not finite.
        ImageError: from `batches`, after everything before it was yielded.
    """
    full = max(2, batch_size(backend.spec))
    with OrderedPool[Predictions](backend.streams) as pool:
        try:
            for pixels in batches:
                if backend.streams > 1 and len(pixels) >= full:
                    pool.submit(backend.score_single_threaded, pixels)
                    yield from map(check_finite, pool.results(max_pending=backend.streams))
                else:
                    yield from map(check_finite, pool.results())
                    yield check_finite(backend(pixels)) if len(pixels) else Predictions(np.empty(0), None, None)
        except ImageError:
            yield from map(check_finite, pool.results())  # nothing before an unreadable image is lost
            raise
        yield from map(check_finite, pool.results())


def check_finite(predictions: Predictions) -> Predictions:
    """The same predictions.

    Raises:
        ArtifactError: a score is not finite.
    """
    if not np.isfinite(predictions.anomaly_score).all():
        raise ArtifactError("this detector gives scores that are not finite numbers; fit it again")
    return predictions


def anomaly_scores(backend: Backend, batches: Iterable[Pixels]) -> npt.NDArray[np.float64]:
    """Scores (N,) of all images in batches of pixels (B, H, W, C)."""
    scores = [predictions.anomaly_score for predictions in score_batches(backend, batches)]
    return np.concatenate(scores) if scores else np.empty(0)


def batch_size(spec: InputSpec) -> int:
    """Number of images in a batch: the fewer, the larger they are, so that memory stays bounded."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // (spec.height * spec.width)))


def in_batches(pixels: Pixels, size: int) -> Iterator[Pixels]:
    """Batches of pixels (N, H, W, C), without copying."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]
