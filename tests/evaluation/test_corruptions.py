"""Corruptions: pinned outputs, invariants, and the effect of each."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import SettingsError
from oddlens.evaluation.corruptions import DISTORTIONS, PATTERNS, describe, distort, draw_pattern, fit_foreign

GREY = InputSpec(height=28, width=28, channels=1)
COLOUR = InputSpec(height=32, width=32, channels=3)
DRAWING = ("noise", "hole", "shuffled_quadrants")  # the distortions that draw random numbers


def rings(count: int = 4) -> Pixels:
    """Bright rings of growing size on black, (count, 28, 28, 1): about what a digit is, in exact integers."""
    y, x = np.mgrid[:28, :28]
    squares = (2 * y - 27) ** 2 + (2 * x - 27) ** 2
    drawn = [((12 + i) ** 2 < squares) & (squares < (19 + i) ** 2) for i in range(count)]
    return np.asarray(np.stack(drawn)[..., None] * 250, np.uint8)


def scenes(count: int = 4) -> Pixels:
    """Coloured slopes and steps that fill the whole image, (count, 32, 32, 3)."""
    i, y, x, c = np.ogrid[:count, :32, :32, :3]
    return np.asarray((3 * y + 5 * x * (c + 1) + 60 * (y > 10 + i) + 40 * c) % 251, np.uint8)


def grid(height: int, width: int, channels: int, value_max: int) -> Pixels:
    values = np.arange(3 * height * width * channels).reshape(3, height, width, channels) * 37 % (value_max + 1)
    return values.astype(np.uint8) if value_max == 255 else values.astype(np.uint16)


def digest(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


PINNED = {  # digests of rings() and scenes(): 4 grey and 4 colour images
    "noise": ("7dc62475c011239c", "0b794ce073c1d623"),
    "blur": ("affeacad0fc89e2f", "2077404d0d28a56d"),
    "hole": ("e90f97486acacc1f", "d55490437410dd7e"),
    "quarter_turn": ("084dc33b643412e2", "bf987a340a0e659c"),
    "upside_down": ("084dc33b643412e2", "918d61edc9f8b0ae"),
    "inversion": ("a1f2ce3e29b165db", "7f9fbc576317be68"),
    "shuffled_quadrants": ("1de56a53f5167db5", "bc015e70faa33cea"),
    "dimmed": ("1ef395a2002b0cc2", "20bd2f09ff66cce5"),
    "blank": ("b00cd820a573181c", "f3cc103136423a57"),
    "glyphs": ("5d65325f4cea8b05", "deac60dbf14eabdb"),
    "uniform_noise": ("0156aaec38087d01", "33ba95cdca1a2155"),
}


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_distortions_never_change(kind: str) -> None:
    assert (digest(distort(kind, rings(), 255, 0)), digest(distort(kind, scenes(), 255, 0))) == PINNED[kind]


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_never_change(kind: str) -> None:
    assert (digest(draw_pattern(kind, 4, GREY, 0)), digest(draw_pattern(kind, 4, COLOUR, 0))) == PINNED[kind]


def test_names_and_their_order_never_change() -> None:
    assert list(DISTORTIONS) == [
        "noise",
        "blur",
        "hole",
        "quarter_turn",
        "upside_down",
        "inversion",
        "shuffled_quadrants",
        "dimmed",
        "blank",
    ]
    assert PATTERNS == ("glyphs", "uniform_noise")


@pytest.mark.parametrize("value_max", [255, 4095, 65535])
@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 1), (5, 9, 3), (33, 20, 1)])
@pytest.mark.parametrize("kind", DISTORTIONS)
def test_a_distortion_keeps_shape_type_and_range_and_does_not_change_its_input(
    kind: str, height: int, width: int, channels: int, value_max: int
) -> None:
    pixels = grid(height, width, channels, value_max)
    before = pixels.copy()
    changed = distort(kind, pixels, value_max, 0)
    assert (changed.shape, changed.dtype.name) == (pixels.shape, pixels.dtype.name)
    assert changed.max() <= value_max
    np.testing.assert_array_equal(pixels, before)
    assert all((a != b).any() for a, b in zip(changed, pixels, strict=True))


@pytest.mark.parametrize("kind", [*DISTORTIONS, *PATTERNS])
def test_a_shorter_set_is_the_start_of_a_longer_one(kind: str) -> None:
    if kind in PATTERNS:
        few, many = draw_pattern(kind, 2, COLOUR, 5), draw_pattern(kind, 4, COLOUR, 5)
    else:
        few, many = distort(kind, scenes()[:2], 255, 5), distort(kind, scenes(), 255, 5)
    np.testing.assert_array_equal(few, many[:2])


@pytest.mark.parametrize("kind", [*DISTORTIONS, *PATTERNS])
def test_an_empty_set_stays_empty(kind: str) -> None:
    none = draw_pattern(kind, 0, COLOUR, 0) if kind in PATTERNS else distort(kind, scenes(0), 255, 0)
    assert none.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_the_seed_changes_only_distortions_that_draw_random_numbers(kind: str) -> None:
    alike = (distort(kind, scenes(), 255, 0) == distort(kind, scenes(), 255, 1)).all()
    assert alike == (kind not in DRAWING)


@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_differ_between_images_and_seeds(kind: str) -> None:
    first, second = draw_pattern(kind, 40, GREY, 0), draw_pattern(kind, 40, GREY, 1)
    assert len({image.tobytes() for image in (*first, *second)}) == 80


@pytest.mark.parametrize("value_max", [255, 4095, 65535])
def test_noise_has_a_standard_deviation_of_a_fifth_of_the_range(value_max: int) -> None:
    grey = np.full((20, 64, 64, 1), value_max // 2, np.uint8 if value_max == 255 else np.uint16)
    change = distort("noise", grey, value_max, 0).astype(float) - value_max // 2
    assert change.mean() / value_max == pytest.approx(0, abs=0.005)
    # Clipping at 2.5 sigma does not change the median distance: 0.6745 sigma for a Gaussian.
    assert np.median(np.abs(change)) / value_max == pytest.approx(0.6745 * 0.2, rel=0.02)
    assert (np.abs(change) > 0.4 * value_max).mean() == pytest.approx(0.0455, abs=0.004)


@pytest.mark.parametrize("pixels", [rings(1), scenes(1)], ids=["28", "32"])
def test_blur_is_the_mean_of_5_by_5_with_the_edge_repeated(pixels: Pixels) -> None:
    image = pixels[0].astype(float)
    last = len(image) - 1
    expected = np.empty_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        rows = [min(max(y + d, 0), last) for d in range(-2, 3)]
        columns = [min(max(x + d, 0), last) for d in range(-2, 3)]
        expected[y, x] = image[np.ix_(rows, columns)].mean(axis=(0, 1))
    np.testing.assert_allclose(distort("blur", pixels, 255, 0)[0], expected, atol=0.5001)


def test_blur_scales_with_each_side() -> None:
    points = np.zeros((1, 112, 56, 1), np.uint16)
    points[0, 50, 25] = 65535
    spread = distort("blur", points, 65535, 0)[0, :, :, 0] > 0
    # The reach is 8 and 4 pixels to each side, plus the centre.
    assert (spread.any(axis=1).sum(), spread.any(axis=0).sum()) == (17, 9)


@pytest.mark.parametrize("background", [0, 40, 255])
def test_a_hole_is_8_by_8_pixels_of_background_over_the_foreground(background: int) -> None:
    pixels = np.full((50, 28, 28, 1), background, np.uint8)
    pixels[:, 8:20, 8:20] = 128
    changed = distort("hole", pixels, 255, 0) != pixels
    rows, columns = changed.any(axis=(2, 3)).sum(axis=1), changed.any(axis=(1, 3)).sum(axis=1)
    assert (distort("hole", pixels, 255, 0)[changed] == background).all()
    assert max(rows.max(), columns.max()) == 8
    assert changed.sum(axis=(1, 2, 3)).min() >= 0.05 * 28 * 28
    assert len({image.tobytes() for image in changed}) > 10  # at random positions


def test_a_hole_covers_as_many_foreground_pixels_as_possible() -> None:
    pixels = np.zeros((10, 28, 28, 1), np.uint8)
    pixels[:, 5:23, 14] = 200  # a line one pixel wide, of which a hole covers 8 pixels
    changed = distort("hole", pixels, 255, 3) != pixels
    assert (changed.sum(axis=(1, 2, 3)) == 8).all()


def test_a_hole_scales_with_each_side() -> None:
    pixels = scenes(1).repeat(2, axis=1)  # 64 x 32
    changed = (distort("hole", pixels, 255, 0) != pixels).any(axis=-1)[0]
    assert [int(np.ptp(np.flatnonzero(changed.any(axis)))) + 1 for axis in (1, 0)] == [18, 9]


def test_a_quarter_turn_is_counterclockwise_and_four_are_the_identity() -> None:
    pixels = scenes(2)
    rotated = distort("quarter_turn", pixels, 255, 0)
    np.testing.assert_array_equal(rotated[:, 31, 0], pixels[:, 0, 0])  # the upper left corner moves to the lower left
    for _ in range(3):
        rotated = distort("quarter_turn", rotated, 255, 0)
    np.testing.assert_array_equal(rotated, pixels)


def test_a_quarter_turn_stretches_an_image_that_is_not_square() -> None:
    pixels = np.zeros((1, 8, 32, 1), np.uint8)
    pixels[:, :, 24:] = 200  # the right quarter
    rotated = distort("quarter_turn", pixels, 255, 0)[0, :, :, 0]
    assert (rotated[0] == 200).all()  # is at the top now
    assert (rotated[4:] == 0).all()


def test_upside_down_flips_top_to_bottom() -> None:
    np.testing.assert_array_equal(distort("upside_down", scenes(), 255, 0), scenes()[:, ::-1])


def test_inversion_clips_values_above_the_full_scale() -> None:
    pixels = np.array([0, 1, 4094, 4095, 4096, 65535], np.uint16).repeat(16).reshape(6, 4, 4, 1)
    inverted = distort("inversion", pixels, 4095, 0)
    assert inverted[:, 0, 0, 0].tolist() == [4095, 4094, 1, 0, 0, 0]


@pytest.mark.parametrize("side", [8, 9])
def test_no_quadrant_keeps_its_place_and_every_other_permutation_occurs(side: int) -> None:
    pixels = np.full((300, side, side, 1), 9, np.uint8)
    half = side // 2
    pixels[:, :half, :half], pixels[:, :half, -half:] = 1, 2
    pixels[:, -half:, :half], pixels[:, -half:, -half:] = 3, 4
    shuffled = distort("shuffled_quadrants", pixels, 255, 0)[..., 0]
    corners = shuffled[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (np.sort(corners, axis=1) == [1, 2, 3, 4]).all()
    assert (corners != [1, 2, 3, 4]).all()
    assert len({permutation.tobytes() for permutation in corners}) == 9
    assert (shuffled[:, :half, :half] == corners[:, :1, None]).all()
    if side == 9:
        assert (shuffled[:, 4] == 9).all()  # the middle line of a side of uneven length


def test_dimmed_halves_values_rounding_down_and_blank_is_zero() -> None:
    pixels = np.array([0, 1, 2, 255], np.uint8).repeat(16).reshape(4, 4, 4, 1)
    assert distort("dimmed", pixels, 255, 0)[:, 0, 0, 0].tolist() == [0, 0, 1, 127]
    assert not distort("blank", pixels, 255, 0).any()


@pytest.mark.parametrize(
    "spec",
    [GREY, COLOUR, InputSpec(height=96, width=48, channels=1, value_max=4095)],
    ids=["grey", "colour", "12 bits"],
)
def test_glyphs_are_bold_and_bright_on_black(spec: InputSpec) -> None:
    drawn = draw_pattern("glyphs", 100, spec, 0)
    assert (drawn.shape, drawn.dtype.name) == ((100, spec.height, spec.width, spec.channels), spec.dtype)
    assert (drawn.max(axis=(1, 2, 3)) == spec.value_max).all()
    assert (drawn == drawn[..., :1]).all()
    ink = drawn.mean(axis=(1, 2, 3)) / spec.value_max
    assert 0.05 < ink.min() < ink.max() < 0.5
    assert not drawn[:, [0, -1]].any()
    assert not drawn[:, :, [0, -1]].any()


def test_uniform_noise_has_every_value_equally_often() -> None:
    counts = np.bincount(draw_pattern("uniform_noise", 100, COLOUR, 0).ravel(), minlength=256)
    assert len(counts) == 256
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()
    deep = draw_pattern("uniform_noise", 20, InputSpec(height=28, width=28, channels=1, value_max=4095), 0)
    assert (deep.dtype.name, int(deep.min()) < 20, 4075 < int(deep.max()) <= 4095) == ("uint16", True, True)


def test_foreign_images_are_converted_to_the_channels_and_size_of_the_spec() -> None:
    blue_and_red = np.zeros((2, 32, 40, 3), np.uint8)
    blue_and_red[0, ..., 2], blue_and_red[1, ..., 0] = 255, 255
    converted = fit_foreign(blue_and_red, GREY)
    assert (converted.shape, converted.dtype.name) == ((2, 28, 28, 1), "uint8")
    assert [np.unique(image).tolist() for image in converted] == [[29], [76]]  # the luma of pure blue and red
    assert fit_foreign(rings(), COLOUR).shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    ("value", "bits", "value_max", "expected"),
    [
        (255, 8, 65535, 65535),
        (100, 8, 4095, 1606),
        (4095, 16, 255, 255),
        (65535, 16, 4095, 4095),
        (4095, 16, 4095, 4095),
    ],
)
def test_foreign_values_are_converted_to_the_value_range_of_the_spec(
    value: int, bits: int, value_max: int, expected: int
) -> None:
    spec = InputSpec.model_validate({"height": 4, "width": 4, "channels": 1, "value_max": value_max})
    shape = (2, 4, 4, 1)
    converted = fit_foreign(np.full(shape, value, np.uint8) if bits == 8 else np.full(shape, value, np.uint16), spec)
    assert (converted.dtype.name, np.unique(converted).tolist()) == (spec.dtype, [expected])


def test_an_empty_set_of_foreign_images_stays_empty() -> None:
    assert fit_foreign(scenes(0), GREY).shape == (0, 28, 28, 1)


def test_every_kind_is_described_in_one_sentence() -> None:
    sentences = [describe(kind) for kind in (*DISTORTIONS, *PATTERNS, "foreign")]
    assert len(set(sentences)) == 12
    assert all(sentence.endswith(".") and sentence.count(".") == 1 and sentence[0].isupper() for sentence in sentences)


def test_an_unknown_kind_is_rejected_with_the_valid_kinds() -> None:
    with pytest.raises(SettingsError, match=r"'rotate' is not a distortion; choose one of noise, .*, blank$"):
        distort("rotate", rings(), 255, 0)
    with pytest.raises(SettingsError, match=r"'noise' is not a pattern; choose one of glyphs, uniform_noise$"):
        draw_pattern("noise", 1, GREY, 0)
    with pytest.raises(SettingsError, match=r"'rotate' is not an evaluation corruption; choose .*, foreign$"):
        describe("rotate")


def test_every_distortion_changes_real_digits() -> None:
    folder = os.environ.get("ODDLENS_DATA")
    if not folder:
        pytest.skip("ODDLENS_DATA does not name a folder with MNIST/raw")
    file = Path(folder) / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with gzip.open(file) as images:
        digits = np.frombuffer(images.read(), np.uint8, 1000 * 28 * 28, offset=16).reshape(-1, 28, 28, 1)
    share = {kind: (distort(kind, digits, 255, 0) != digits).mean(axis=(1, 2, 3)) for kind in DISTORTIONS}
    assert min(shares.min() for shares in share.values()) > 0.02
    assert (share["hole"] >= 0.05).mean() > 0.85  # thin digits have no 8 x 8 block with 5% of the pixels
