"""The one scoring path: order, batches, streams and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError, UnreadableImageError
from oddlens.inference import scoring
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches, score_batches


class Brightness:
    """A backend whose score is the mean of an image; it is not finite for images of value 13."""

    name = "test"
    spec = InputSpec(height=4, width=4, channels=1)
    streams = 1

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        return self(pixels)

    def __call__(self, pixels: Pixels) -> Predictions:
        with np.errstate(divide="ignore", invalid="ignore"):
            return Predictions(pixels.mean(axis=(1, 2, 3)) / (pixels.max(initial=0) != 13), None, None)


class TwoStreams(Brightness):
    """A backend of two streams that records which batches were scored how; the first of two takes longer."""

    streams = 2

    def __init__(self) -> None:
        self.together, self.apart = list[int](), list[int]()
        self.barrier = threading.Barrier(2, timeout=10)

    def __call__(self, pixels: Pixels) -> Predictions:
        self.together.append(len(pixels))
        return super().__call__(pixels)

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        self.apart.append(len(pixels))
        if self.barrier.wait() == 0:
            time.sleep(0.05)
        return super().__call__(pixels)


def test_scores_come_in_the_order_of_the_images(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 12, (10, 4, 4, 1), dtype=np.uint8)
    scores = anomaly_scores(Brightness(), in_batches(pixels, 3))
    np.testing.assert_allclose(scores, pixels.mean(axis=(1, 2, 3)))
    assert anomaly_scores(Brightness(), []).shape == (0,)


def test_full_batches_are_scored_concurrently_and_come_in_order(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 3)
    pixels, backend = rng.integers(0, 12, (20, 4, 4, 1), dtype=np.uint8), TwoStreams()
    scores = anomaly_scores(backend, in_batches(pixels, 3))
    np.testing.assert_allclose(scores, pixels.mean(axis=(1, 2, 3)))
    assert (backend.apart, backend.together) == ([3] * 6, [2])


def test_everything_before_an_unreadable_image_is_scored(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 3)
    pixels = rng.integers(0, 12, (6, 4, 4, 1), dtype=np.uint8)

    def batches() -> Iterator[Pixels]:
        yield from in_batches(pixels, 3)
        raise UnreadableImageError("seven.png", "is not an image")

    outputs = score_batches(TwoStreams(), batches())
    assert [len(next(outputs).anomaly_score) for _ in range(2)] == [3, 3]
    with pytest.raises(UnreadableImageError):
        next(outputs)


def test_an_error_in_a_stream_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 2)
    thirteens = np.full((4, 4, 4, 1), 13, dtype=np.uint8)
    with pytest.raises(ArtifactError, match="not finite"):
        list(score_batches(TwoStreams(), in_batches(thirteens, 2)))


def test_a_score_that_is_not_finite_is_an_error() -> None:
    thirteen = np.full((1, 4, 4, 1), 13, dtype=np.uint8)
    with pytest.raises(ArtifactError, match="not finite"):
        list(score_batches(Brightness(), [thirteen]))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(4, 4, scoring.MAX_BATCH), (128, 128, 128), (1024, 2048, 1), (4096, 4096, 1)]
)
def test_batches_are_smaller_the_larger_the_images_are(height: int, width: int, size: int) -> None:
    assert batch_size(InputSpec(height=height, width=width, channels=1)) == size


def test_batches_are_views_that_cover_all_pixels(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 12, (7, 4, 4, 1), dtype=np.uint8)
    parts = list(in_batches(pixels, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert all(np.shares_memory(part, pixels) for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), pixels)
