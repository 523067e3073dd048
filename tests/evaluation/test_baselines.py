"""The baseline's thumbnails: what they hold, and which is the nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlens.config.base import InputSpec
from oddlens.evaluation.baselines import (
    THUMBNAIL_KINDS,
    ThumbnailKind,
    make_thumbnails,
    nearest_distances,
    normalize_rows,
)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_the_nearest_is_that_of_every_pair(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, new = rng.random((n, 12), dtype=np.float32), rng.random((m, 12), dtype=np.float32)
    pairs = np.sqrt(np.square(new[:, None].astype(np.float64) - known[None]).mean(axis=2))
    np.testing.assert_allclose(nearest_distances(known, new, block=7), pairs.min(axis=1), rtol=1e-6, atol=1e-7)


def test_thumbnails_of_deep_colour_images_lie_in_0_to_1() -> None:
    spec = InputSpec(height=40, width=30, channels=3, value_max=4095)
    pixels = np.full((2, 40, 30, 3), 4095, dtype=np.uint16)
    pixels[1] = 0
    thumbs = make_thumbnails(pixels, ThumbnailKind(8), spec)
    assert thumbs.shape == (2, 8 * 8 * 3)
    assert thumbs[0].tolist() == [1.0] * 192
    assert thumbs[1].tolist() == [0.0] * 192


def test_normalised_thumbnails_find_a_picture_again_in_another_light() -> None:
    dark = np.random.default_rng(0).uniform(0, 0.3, (4, 64)).astype(np.float32)
    known, again = normalize_rows(dark), normalize_rows(2 * dark + 0.3)
    np.testing.assert_allclose(again, known, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, rtol=1e-6)
    assert (normalize_rows(np.full((1, 64), 0.7, dtype=np.float32)) == 0).all()


@pytest.mark.parametrize("kind", THUMBNAIL_KINDS, ids=str)
def test_a_picture_in_another_light_is_near_to_itself_for_the_normalised_kinds_alone(kind: ThumbnailKind) -> None:
    spec = InputSpec(height=32, width=32, channels=1)
    rng = np.random.default_rng(1)
    pictures = np.kron(rng.integers(0, 120, (6, 8, 8)), np.ones((4, 4)))[..., None].astype(np.uint8)
    known, lit = make_thumbnails(pictures, kind, spec), make_thumbnails(pictures * 2, kind, spec)
    assert known.shape == (6, kind.side**2)
    distances = nearest_distances(known, lit)
    assert (distances < 0.01).all() if kind.normalized else (distances > 0.05).all()


def test_the_kinds_are_named_as_the_tables_name_them() -> None:
    assert [str(kind) for kind in THUMBNAIL_KINDS] == ["8", "32", "8 normalised", "32 normalised"]
