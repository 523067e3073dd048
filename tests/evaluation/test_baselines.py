"""Thumbnails of the baseline, and distances between them."""

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
def test_nearest_distance_is_the_minimum_over_all_pairs(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, queries = rng.random((n, 12), dtype=np.float32), rng.random((m, 12), dtype=np.float32)
    pairs = np.sqrt(np.square(queries[:, None].astype(np.float64) - reference[None]).mean(axis=2))
    np.testing.assert_allclose(nearest_distances(reference, queries, block=7), pairs.min(axis=1), rtol=1e-6, atol=1e-7)


def test_thumbnails_of_12_bit_colour_images_are_in_0_to_1() -> None:
    spec = InputSpec(height=40, width=30, channels=3, value_max=4095)
    pixels = np.full((2, 40, 30, 3), 4095, dtype=np.uint16)
    pixels[1] = 0
    thumbs = make_thumbnails(pixels, ThumbnailKind(8), spec)
    assert thumbs.shape == (2, 8 * 8 * 3)
    assert thumbs[0].tolist() == [1.0] * 192
    assert thumbs[1].tolist() == [0.0] * 192


def test_normalized_rows_do_not_depend_on_brightness_and_contrast() -> None:
    dark = np.random.default_rng(0).uniform(0, 0.3, (4, 64)).astype(np.float32)
    normalized, brightened = normalize_rows(dark), normalize_rows(2 * dark + 0.3)
    np.testing.assert_allclose(brightened, normalized, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, rtol=1e-6)
    assert (normalize_rows(np.full((1, 64), 0.7, dtype=np.float32)) == 0).all()


@pytest.mark.parametrize("kind", THUMBNAIL_KINDS, ids=str)
def test_a_brighter_image_is_near_to_itself_for_the_normalized_kinds_alone(kind: ThumbnailKind) -> None:
    spec = InputSpec(height=32, width=32, channels=1)
    rng = np.random.default_rng(1)
    images = np.kron(rng.integers(0, 120, (6, 8, 8)), np.ones((4, 4)))[..., None].astype(np.uint8)
    dark, bright = make_thumbnails(images, kind, spec), make_thumbnails(images * 2, kind, spec)
    assert dark.shape == (6, kind.side**2)
    distances = nearest_distances(dark, bright)
    assert (distances < 0.01).all() if kind.normalized else (distances > 0.05).all()


def test_names_of_the_kinds_are_those_of_the_tables() -> None:
    assert [str(kind) for kind in THUMBNAIL_KINDS] == ["8", "32", "8 normalised", "32 normalised"]
