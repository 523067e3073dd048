"""THE scoring path: fit, calibrate, score, eval, reports and exports all go through here."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError, ImageError
from oddlens.inference.backend import Backend, Predictions
from oddlens.io.allocator import keep_freed_memory

MAX_BATCH = 256
BATCH_PIXELS = 2**21  # a batch of 128 at 128 x 128


def score_batches(backend: Backend, batches: Iterable[Pixels]) -> Iterator[Predictions]:
    """Score batches of pixels (B, H, W, C), in order; an empty one has no scores.

    Full batches are scored side by side, in one thread each, where that is faster than one after the other with all
    threads (`Backend.streams`); smaller ones are not. What goes to which is told by the batch alone, so that scores do
    not depend on what else there is to score. A few batches are taken ahead.

    Raises:
        ArtifactError: the detector gives a score that is not a finite number.
        ImageError: from the batches; after all that comes before it.
    """
    full = max(2, batch_size(backend.spec))
    pending: deque[Future[Predictions]] = deque()
    pool, memory, kept = ThreadPoolExecutor(backend.streams), contextlib.ExitStack(), False
    try:
        for pixels in batches:
            if len(pixels) >= full and not kept:
                memory.enter_context(keep_freed_memory())
                kept = True
            if backend.streams > 1 and len(pixels) >= full:
                pending.append(pool.submit(backend.alone, pixels))
                if len(pending) > backend.streams:
                    yield check_finite(pending.popleft().result())
            else:
                yield from drain(pending)
                yield check_finite(backend(pixels)) if len(pixels) else Predictions(np.empty(0), None, None)
        yield from drain(pending)
    except ImageError:
        yield from drain(pending)  # what comes before an image that cannot be read is not lost
        raise
    finally:
        memory.close()
        pool.shutdown(wait=False, cancel_futures=True)


def drain(pending: deque[Future[Predictions]]) -> Iterator[Predictions]:
    """What is still being scored, in order."""
    while pending:
        yield check_finite(pending.popleft().result())


def check_finite(outputs: Predictions) -> Predictions:
    """The same, where all scores are finite."""
    if not np.isfinite(outputs.anomaly_score).all():
        raise ArtifactError("this detector gives scores that are not finite numbers; fit it again")
    return outputs


def anomaly_scores(backend: Backend, batches: Iterable[Pixels]) -> npt.NDArray[np.float64]:
    """The scores alone: batches of (B, H, W, C) -> (N,)."""
    scores = [outputs.anomaly_score for outputs in score_batches(backend, batches)]
    return np.concatenate(scores) if scores else np.empty(0)


def batch_size(spec: InputSpec) -> int:
    """How many images are scored at once: fewer the larger they are, so that memory stays bounded."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // (spec.height * spec.width)))


def in_batches(pixels: Pixels, size: int) -> Iterator[Pixels]:
    """Cut pixels (N, H, W, C) into batches without copying."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]
