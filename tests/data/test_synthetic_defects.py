"""Synthetic defects have exact masks, vary, and are reproducible."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from oddlens.data import synthetic_defects
from oddlens.data.image_io import Pixels
from oddlens.errors import DataError

SIZES = {"tiny": (4, 4, 1), "elongated, colour": (5, 31, 3), "digits": (28, 28, 1), "parts": (96, 72, 1)}


@pytest.fixture(scope="module")
def cloth() -> Pixels:
    """Woven threads with uneven illumination, (60, 64, 64, 1)."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:64, :64]
    start, light = rng.uniform(0, 6, (2, 60, 1, 1)), rng.uniform(-0.3, 0.3, (60, 1, 1))
    threads = np.sin(x + start[0]) * np.sin(y + start[1]) + light * (x - 32) / 16
    pixels: Pixels = np.rint(120 + 25 * threads + rng.normal(0, 3, threads.shape)).astype(np.uint8)[..., None]
    return pixels


def random_images(size: tuple[int, int, int], value_max: int = 255, count: int = 12) -> Pixels:
    pixels: Pixels = np.random.default_rng(1).integers(0, value_max + 1, (count, *size), dtype=np.uint16)
    return pixels.astype(np.uint8) if value_max == 255 else pixels


def max_difference(before: Pixels, after: Pixels) -> npt.NDArray[np.int64]:
    """(N, H, W): the maximum difference over the channels."""
    return np.asarray(np.abs(after.astype(np.int64) - before).max(axis=3))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("value_max", [255, 4095, 65535])
def test_every_image_is_changed_under_its_mask(size: tuple[int, int, int], value_max: int) -> None:
    pixels = random_images(size, value_max)
    damaged, masks = synthetic_defects.add_defects(pixels, 5, value_max)
    assert damaged.shape == pixels.shape
    assert damaged.dtype == pixels.dtype
    assert int(damaged.max()) <= value_max
    assert masks.shape == pixels.shape[:3]
    assert ((max_difference(pixels, damaged) > 0) & masks).any(axis=(1, 2)).all()


def test_a_defect_changes_its_mask_by_more_than_the_grain(cloth: Pixels) -> None:
    damaged, masks = synthetic_defects.add_defects(cloth, 2, 255)
    difference = max_difference(cloth, damaged)
    for image, mask in zip(difference, masks, strict=True):
        assert image[mask].mean() > 2
        assert image[mask].mean() > 10 * image[~mask].mean()


def test_defects_vary_in_size_and_contrast(cloth: Pixels) -> None:
    damaged, masks = synthetic_defects.add_defects(np.concatenate([cloth] * 5), 3, 255)
    shares = masks.mean(axis=(1, 2))
    assert np.quantile(shares, 0.1) < 0.005
    assert np.quantile(shares, 0.9) > 0.05
    assert shares.max() < 0.9
    difference = max_difference(np.concatenate([cloth] * 5), damaged)
    contrasts = np.array([image[mask].mean() for image, mask in zip(difference, masks, strict=True)])
    assert np.quantile(contrasts, 0.1) < 8
    assert np.quantile(contrasts, 0.9) > 22


def test_defects_are_spread_evenly_up_to_the_edges(cloth: Pixels) -> None:
    masks = synthetic_defects.add_defects(np.concatenate([cloth] * 5), 4, 255)[1].mean(axis=0)
    blocks = masks.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert blocks.min() > 0.004
    assert blocks.max() < 10 * blocks.min()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_images_get_defects(value: int) -> None:
    blank = np.full((20, 24, 24, 1), value, dtype=np.uint8)
    damaged, masks = synthetic_defects.add_defects(blank, 0, 255)
    assert (max_difference(blank, damaged)[masks] > 0).mean() > 0.9
    assert masks.any(axis=(1, 2)).all()


def test_some_defects_have_another_colour() -> None:
    grey = np.full((100, 40, 40, 3), 120, np.uint8)
    images, masks = synthetic_defects.add_defects(grey, 0, 255)
    coloured = [np.ptp(image[mask].astype(int), axis=1).max() > 20 for image, mask in zip(images, masks, strict=True)]
    assert 0.1 < np.mean(coloured) < 0.9


def test_the_defects_depend_only_on_the_seed(cloth: Pixels) -> None:
    first, again, other = (synthetic_defects.add_defects(cloth, seed, 255) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any(axis=(1, 2, 3)).all()


def test_the_input_images_are_not_modified(cloth: Pixels) -> None:
    before = cloth.copy()
    synthetic_defects.add_defects(cloth, 0, 255)
    np.testing.assert_array_equal(cloth, before)


def test_defects_have_the_requested_sizes(cloth: Pixels) -> None:
    small = synthetic_defects.add_defects(cloth, 0, 255, sizes=(0.04, 0.1), max_defects=1)[1]
    large = synthetic_defects.add_defects(cloth, 0, 255, sizes=(0.5, 0.9), max_defects=1)[1]
    for mask in small:
        rows, columns = np.nonzero(mask)
        assert max(np.ptp(rows), np.ptp(columns)) < 0.15 * 64
    assert large.mean() > 10 * small.mean()


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        synthetic_defects.add_defects(np.zeros((0, 8, 8, 1), dtype=np.uint8), 0, 255)


def test_box_blur_is_the_mean_around_each_pixel() -> None:
    image = np.random.default_rng(0).uniform(0, 9, (7, 5, 2)).astype(np.float32)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1)).mean(axis=(3, 4))
    np.testing.assert_allclose(synthetic_defects.box_blur(image, 2), expected, rtol=1e-5)
