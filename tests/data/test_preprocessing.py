"""Images are converted to the form that a detector takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.preprocessing import choose_spec, fit_to, mean_brightness, resize_map, value_max
from oddlens.errors import DataError, ImageError, SettingsError

Array = npt.NDArray[Any]


# 48 high, 100 wide, 4,800 different levels spread over all 16 bits.
LEVELS = (np.arange(4800, dtype=np.uint16) * 13 + 7).reshape(48, 100)


GREY = np.arange(48 * 100, dtype=np.uint16).reshape(48, 100).astype(np.uint8)


COLOUR = np.random.default_rng(0).integers(0, 256, (48, 100, 3), dtype=np.uint8)


# The input specification


def test_the_full_scale_is_derived_from_depth_and_peak() -> None:
    assert [value_max(*case) for case in ((3, 8), (255, 8), (0, 16), (4095, 16), (4096, 16))] == [
        255,
        255,
        4095,
        4095,
        65535,
    ]


def infos(*sizes: tuple[int, int]) -> list[ImageInfo]:
    """Grey 8-bit images of these (height, width)."""
    return [ImageInfo(height, width, 1, 8) for height, width in sizes]


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ([(28, 28)] * 3, None, (28, 28)),
        ([(64, 10)], None, (64, 10)),
        ([(28, 28)], 16, (16, 16)),
        ([(100, 100)], 100, (100, 100)),
        ([(65, 65)], None, (64, 64)),
        ([(1000, 2000)], None, (64, 128)),
        ([(2000, 1000)], None, (128, 64)),
        ([(1000, 2000)], 512, (256, 512)),
        ([(1000, 2000)], 4096, (2048, 4096)),
        ([(50, 100)] * 2, None, (48, 96)),  # never enlarged, and 50 is nearer to 48 than to 56
        ([(32, 2048)], None, (8, 512)),  # a strip keeps its shape
        ([(2048, 32)], None, (512, 8)),
        ([(1, 5000)], None, (8, 2048)),  # but for the smallest and largest side
        ([(32, 2048)], 128, (8, 128)),  # a requested size is exact
        ([(1000, 2000)], (900, 2000), (900, 2000)),
        ([(2, 2)], None, (8, 8)),
        ([(100, 200), (200, 100)], None, (128, 128)),  # landscape and portrait cancel out
        ([(300, 100), (100, 200), (110, 220)], None, (64, 128)),
        ([(1000, 3000)], 4, (4, 4)),
    ],
)
def test_the_input_size_is_derived_from_the_images(
    sizes: list[tuple[int, int]], size: int | tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    spec = choose_spec(infos(*sizes), 255, size)
    assert (spec.height, spec.width) == expected


def test_the_input_has_colour_if_any_image_has() -> None:
    assert choose_spec(infos((28, 28)), 255, None) == InputSpec(height=28, width=28, channels=1)
    mixed = [*infos((28, 28)), ImageInfo(28, 28, 3, 8)]
    assert choose_spec(mixed, 255, None) == InputSpec(height=28, width=28, channels=3)
    assert choose_spec([ImageInfo(28, 28, 1, 16)], 4095, None).value_max == 4095


def test_mixed_depths_are_counted_and_refused() -> None:
    with pytest.raises(DataError, match="2 images have 8 bits and 1 have 16 bits"):
        choose_spec([*infos((28, 28), (28, 28)), ImageInfo(28, 28, 1, 16)], 255, None)
    with pytest.raises(DataError, match="at least one"):
        choose_spec([], 255, None)


@pytest.mark.parametrize("size", [3, 4097])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(SettingsError, match=f"from 4 to 4096 pixels, got {size}"):
        choose_spec(infos((28, 28)), 255, size)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1, max_size=9))
def test_the_default_size_is_small_and_never_enlarges(sizes: list[tuple[int, int]]) -> None:
    spec = choose_spec(infos(*sizes), 255, None)
    longer = max(spec.height, spec.width)
    assert spec.height * spec.width <= 128 * 128
    assert longer <= max(8, max(max(size) for size in sizes))


# Converting images


def spec_of(height: int, width: int, channels: int = 1, peak: int = 255) -> InputSpec:
    return InputSpec.model_validate({"height": height, "width": width, "channels": channels, "value_max": peak})


def test_an_image_that_fits_is_not_copied() -> None:
    assert fit_to(COLOUR, spec_of(48, 100, 3), "a") is COLOUR


def test_colour_becomes_grey_by_exact_luma_at_both_depths() -> None:
    image = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 1, 0)]], np.uint8).repeat(4, axis=0)
    # 76.245, 149.685, 29.07 and 0.886, rounded
    np.testing.assert_array_equal(fit_to(image, spec_of(4, 4), "a")[0, :, 0], [76, 150, 29, 1])
    wide = image.astype(np.uint16) * 257
    np.testing.assert_array_equal(fit_to(wide, spec_of(4, 4, 1, 65535), "a")[0, :, 0], [19595, 38469, 7471, 228])


def test_grey_becomes_colour_by_replication() -> None:
    colour = fit_to(GREY[..., None], spec_of(48, 100, 3), "a")
    assert colour.shape == (48, 100, 3)
    assert all(np.array_equal(colour[..., channel], GREY) for channel in range(3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_shrinking_averages_instead_of_dropping_pixels(dtype: Any) -> None:
    peak = np.iinfo(dtype).max
    stripes = np.zeros((64, 64, 1), dtype)
    stripes[:, ::2] = peak
    small = fit_to(stripes, spec_of(8, 8, 1, peak), "a")
    assert small.shape == (8, 8, 1)
    assert np.abs(small.astype(float) / peak - 0.5).max() < 0.02  # selecting single pixels would give 0.5


def test_shrinking_by_two_follows_the_triangle_filter() -> None:
    # Weights 1/8 3/8 3/8 1/8 around each pair; at the edges the missing one is shared out: 3/7 3/7 1/7.
    line = np.array([0, 0, 0, 806, 0, 0, 0, 0], np.uint16)[None, :, None].repeat(8, axis=0)
    assert fit_to(line, spec_of(8, 4, 1, 65535), "a")[0, :, 0].tolist() == [0, 302, 101, 0]  # 302.25, 100.75
    narrow = np.array([0, 254, 0, 0, 0, 0, 0, 0], np.uint8)[None, :, None].repeat(8, axis=0)
    assert fit_to(narrow, spec_of(8, 4), "a")[0, :, 0].tolist() == [109, 32, 0, 0]  # 108.86, 31.75


def test_sixteen_bits_are_resized_at_full_precision() -> None:
    image = (LEVELS // 16 + 30000)[..., None]
    small = fit_to(image, spec_of(24, 52, 1, 65535), "a")
    assert len(np.unique(small)) > 500  # an 8-bit conversion would leave fewer than 20
    assert abs(small.mean() - image.mean()) < 10


def test_channels_are_resized_independently() -> None:
    small = fit_to(COLOUR, spec_of(24, 40, 3), "a")
    for channel in range(3):
        alone = fit_to(np.ascontiguousarray(COLOUR[..., channel : channel + 1]), spec_of(24, 40), "a")
        np.testing.assert_array_equal(small[..., channel : channel + 1], alone)


def test_values_above_the_full_scale_are_not_clipped() -> None:
    image = np.full((16, 16, 1), 5000, np.uint16)
    assert fit_to(image, spec_of(8, 8, 1, 4095), "a").min() == 5000


def test_a_different_bit_depth_is_refused_with_the_fix() -> None:
    with pytest.raises(ImageError, match="a: has 8 bits per channel, but the detector expects 16-bit"):
        fit_to(GREY[..., None], spec_of(48, 100, 1, 4095), "a")
    with pytest.raises(ImageError, match="has 16 bits per channel, but the detector expects 8-bit"):
        fit_to(LEVELS[..., None], spec_of(48, 100), "a")


sides = st.integers(4, 40)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.tuples(sides, sides), st.tuples(sides, sides), st.sampled_from([1, 3]), st.booleans())
def test_resized_values_stay_within_the_range_of_the_image(
    seed: int, old: tuple[int, int], new: tuple[int, int], channels: int, wide: bool
) -> None:
    peak = 65535 if wide else 255
    generator = np.random.default_rng(seed)
    low, high = np.sort(generator.integers(0, peak, 2, endpoint=True))
    image: Any = generator.integers(low, high, (*old, channels), endpoint=True).astype(np.uint16 if wide else np.uint8)
    for channels_out in (1, 3):
        resized = fit_to(image, spec_of(*new, channels_out, peak), "a")
        assert resized.shape == (*new, channels_out)
        assert resized.dtype == image.dtype
        assert low <= resized.min() <= resized.max() <= high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 65535), st.tuples(sides, sides), st.tuples(sides, sides), st.sampled_from([1, 3]))
def test_a_constant_image_stays_constant(level: int, old: tuple[int, int], new: tuple[int, int], channels: int) -> None:
    wide, narrow = np.full((*old, channels), level, np.uint16), np.full((*old, channels), level % 256, np.uint8)
    for channels_out in (1, 3):
        assert (fit_to(wide, spec_of(*new, channels_out, 65535), "a") == level).all()
        assert (fit_to(narrow, spec_of(*new, channels_out), "a") == level % 256).all()


@pytest.mark.parametrize("size", [(3, 5), (48, 100), (391, 700)])
def test_some_rows_of_a_resized_map_are_those_of_the_whole(size: tuple[int, int]) -> None:
    whole = resize_map(LEVELS, *size)
    for start in range(0, size[0], 7):
        rows = range(start, min(start + 7, size[0]))
        np.testing.assert_allclose(resize_map(LEVELS, *size, rows), whole[rows.start : rows.stop], rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 4, 6, 3), (0, 4, 4, 1)])
@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_brightness_is_the_mean_of_all_values(shape: tuple[int, ...], dtype: type, full: int) -> None:
    pixels: Array = np.random.default_rng(0).integers(0, full + 1, shape).astype(dtype)
    expected = pixels.astype(np.float64).mean(axis=(1, 2, 3)) / full if len(pixels) else np.empty(0)
    np.testing.assert_allclose(mean_brightness(pixels, full), expected, rtol=1e-12)


def test_the_brightness_of_large_white_images_does_not_overflow() -> None:
    white = np.broadcast_to(np.uint16(65535), (1, 300, 300, 1))
    assert mean_brightness(white, 65535).tolist() == [1.0]
    assert mean_brightness(white, 4095).tolist() == [65535 / 4095]
