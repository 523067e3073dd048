"""The scoring path's own small pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import fingerprints
from oddlens.errors import ArtifactError, UnreadableImageError
from oddlens.inference import scoring
from oddlens.inference.backend import Predictions
from oddlens.inference.golden import golden_pixels
from oddlens.inference.scoring import anomaly_scores, in_batches, score_batches


class Brightness:
    """A backend whose score is a picture's mean."""

    name = "test"
    spec = InputSpec(height=4, width=4, channels=1)
    streams = 1

    def alone(self, pixels: Pixels) -> Predictions:
        return self(pixels)

    def __call__(self, pixels: Pixels) -> Predictions:
        with np.errstate(divide="ignore", invalid="ignore"):
            return Predictions(pixels.mean(axis=(1, 2, 3)) / (pixels.max(initial=0) != 13), None, None)


def test_scores_come_in_the_order_of_the_images(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 12, (10, 4, 4, 1), dtype=np.uint8)
    scores = anomaly_scores(Brightness(), in_batches(pixels, 3))
    np.testing.assert_allclose(scores, pixels.mean(axis=(1, 2, 3)))
    assert anomaly_scores(Brightness(), []).shape == (0,)


class SideBySide(Brightness):
    """A backend of two streams that remembers who scored what, and where the first of two takes longer."""

    streams = 2

    def __init__(self) -> None:
        self.together, self.apart = list[int](), list[int]()
        self.meeting = threading.Barrier(2, timeout=10)

    def __call__(self, pixels: Pixels) -> Predictions:
        self.together.append(len(pixels))
        return super().__call__(pixels)

    def alone(self, pixels: Pixels) -> Predictions:
        self.apart.append(len(pixels))
        if self.meeting.wait() == 0:
            time.sleep(0.05)
        return super().__call__(pixels)


def test_full_batches_are_scored_side_by_side_and_come_in_order(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 3)
    pixels, backend = rng.integers(0, 12, (20, 4, 4, 1), dtype=np.uint8), SideBySide()
    scores = anomaly_scores(backend, in_batches(pixels, 3))
    np.testing.assert_allclose(scores, pixels.mean(axis=(1, 2, 3)))
    assert (backend.apart, backend.together) == ([3] * 6, [2])


def test_what_comes_before_an_unreadable_image_is_scored(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 3)
    pixels = rng.integers(0, 12, (6, 4, 4, 1), dtype=np.uint8)

    def batches() -> Iterator[Pixels]:
        yield from in_batches(pixels, 3)
        raise UnreadableImageError("seven.png", "is not an image")

    outputs = score_batches(SideBySide(), batches())
    assert [len(next(outputs).anomaly_score) for _ in range(2)] == [3, 3]
    with pytest.raises(UnreadableImageError):
        next(outputs)


def test_an_error_in_a_stream_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", 2)
    thirteens = np.full((4, 4, 4, 1), 13, dtype=np.uint8)
    with pytest.raises(ArtifactError, match="not finite"):
        list(score_batches(SideBySide(), in_batches(thirteens, 2)))


def test_a_score_that_is_not_a_number_stops_everything() -> None:
    thirteen = np.full((1, 4, 4, 1), 13, dtype=np.uint8)
    with pytest.raises(ArtifactError, match="not finite"):
        list(score_batches(Brightness(), [thirteen]))


def test_fingerprints_tell_pictures_apart_and_know_them_again(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    changed = pixels.copy()
    changed[7, 3, 3, 0] ^= 1
    assert len(set(fingerprints(pixels).tolist())) == 50
    np.testing.assert_array_equal(np.flatnonzero(fingerprints(pixels) != fingerprints(changed)), [7])


@pytest.mark.parametrize("value_max", [255, 4095, 65535])
def test_golden_pictures_are_synthetic_and_fill_the_range(value_max: int) -> None:
    spec = InputSpec(height=16, width=12, channels=3, value_max=value_max)  # type: ignore[arg-type]
    pixels = golden_pixels(spec)
    assert pixels.shape == (4, 16, 12, 3)
    assert pixels.dtype == spec.dtype
    assert pixels.min() == 0
    assert pixels.max() == value_max
    assert len(np.unique(pixels[3])) > 250
