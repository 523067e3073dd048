"""Arrays are validated and converted to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oddlens.data.image_io import as_pixels
from oddlens.errors import ImageError


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_uint8_and_uint16_arrays_are_not_changed(dtype: Any) -> None:
    grey, colour = np.arange(2 * 5 * 6).reshape(2, 5, 6), np.arange(2 * 5 * 6 * 3).reshape(2, 5, 6, 3) % 256
    for array, expected in ((grey, grey[..., None]), (grey[..., None], grey[..., None]), (colour, colour)):
        pixels = as_pixels(array.astype(dtype))
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.dtype == np.dtype(dtype).newbyteorder("=")
        assert pixels.dtype.isnative


def test_bool_becomes_black_and_white() -> None:
    pixels = as_pixels(np.eye(5, dtype=bool)[None])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[0, ..., 0], np.eye(5) * 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_fill_16_bits(dtype: Any) -> None:
    pixels = as_pixels(np.array([0.0, 0.25, 0.5, 1.0], dtype).reshape(1, 2, 2))
    assert pixels.dtype == np.uint16
    assert pixels.ravel().tolist() == [0, 16384, 32768, 65535]


def test_a_dark_float_image_is_not_stretched() -> None:
    assert as_pixels(np.full((1, 4, 4), 1 / 255)).max() == 257


@pytest.mark.parametrize("levels", [255, 4095, 65535])
def test_floats_of_distinct_levels_stay_distinct(levels: int) -> None:
    floats = (np.arange(levels + 1, dtype=np.float64) / levels).reshape(1, 1, -1, 1)
    whole = as_pixels(floats).ravel().astype(np.int64)
    np.testing.assert_array_equal(np.rint(whole * levels / 65535), np.arange(levels + 1))


@pytest.mark.parametrize("outlier", [np.nan, np.inf, -0.001, 1.001, 255.0])
def test_floats_outside_0_to_1_are_refused_not_guessed(outlier: float) -> None:
    array = np.full((1, 4, 4), 0.5)
    array[0, 2, 1] = outlier
    with pytest.raises(ImageError, match=r"mine: contains floats .* must be in 0\.\.1; divide by"):
        as_pixels(array, "mine")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint32, np.int8, np.complex64, object])
def test_other_types_are_refused_with_the_conversion(dtype: Any) -> None:
    with pytest.raises(ImageError, match=r"astype\(np\.uint8\)"):
        as_pixels(np.zeros((1, 4, 4), dtype))


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((28, 28), r"array\[None\]"),
        ((28, 28, 3), r"array\[None\]"),
        ((28, 28, 1), r"array\[None\]"),
        ((5, 3, 32, 32), r"np\.moveaxis\(array, 1, -1\)"),
        ((5, 1, 28, 28), r"np\.moveaxis\(array, 1, -1\)"),
        ((5, 32, 32, 4), r"array\[\.\.\., :3\]"),
        ((0, 28, 28), "at least one"),
        ((5, 0, 28, 3), "at least one"),
        ((28,), r"\(N, H, W, C\)"),
        ((1, 1, 28, 28, 3), r"\(N, H, W, C\)"),
    ],
)
def test_other_shapes_are_refused_with_the_fix(shape: tuple[int, ...], fix: str) -> None:
    with pytest.raises(ImageError, match=fix):
        as_pixels(np.zeros(shape, np.uint8))


def test_masked_pixels_are_refused() -> None:
    array = np.ma.masked_greater(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), 20)
    assert type(as_pixels(array)) is np.ndarray
    with pytest.raises(ImageError, match=r"masked pixels.*array\.filled\(0\)"):
        as_pixels(np.ma.masked_greater(array, 7))


def test_a_list_is_refused_with_the_conversion() -> None:
    with pytest.raises(ImageError, match=r"np\.asarray"):
        as_pixels([[[0, 1]]])  # type: ignore[arg-type]
