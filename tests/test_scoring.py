"""The scoring path's own small pieces."""

from __future__ import annotations

import numpy as np
import pytest

from oddlens.backends import Outputs
from oddlens.config import InputSpec
from oddlens.errors import ArtifactError
from oddlens.images import Pixels
from oddlens.scoring import anomaly_scores, fingerprints, golden_pixels, in_batches, score_batches


class Brightness:
    """A backend whose score is a picture's mean."""

    name = "test"
    spec = InputSpec(height=4, width=4, channels=1)

    def __call__(self, pixels: Pixels) -> Outputs:
        with np.errstate(divide="ignore", invalid="ignore"):
            return Outputs(pixels.mean(axis=(1, 2, 3)) / (pixels.max(initial=0) != 13), None, None)


def test_scores_come_in_the_order_of_the_images(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 12, (10, 4, 4, 1), dtype=np.uint8)
    scores = anomaly_scores(Brightness(), in_batches(pixels, 3))
    np.testing.assert_allclose(scores, pixels.mean(axis=(1, 2, 3)))
    assert anomaly_scores(Brightness(), []).shape == (0,)


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
