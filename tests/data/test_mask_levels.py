"""What the masks of a set mark is decided from the levels of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from oddlens.data import mask_levels
from oddlens.data.mask_levels import choose_reading
from oddlens.data.masks import MaskFile, MaskSet

Mask = npt.NDArray[np.bool_]
Draw = Callable[[Mask], Image.Image]

SHAPE = (120, 160)
EMPTY = np.zeros(SHAPE, bool)


def circles(count: int) -> list[Mask]:
    """Masks of one or two round defects each."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    masks = []
    for i in range(count):
        mask = EMPTY.copy()
        for _ in range(1 + i % 2):
            y, x, radius = rng.integers(20, 100), rng.integers(20, 140), rng.integers(6, 14)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        masks.append(mask)
    return masks


CIRCLES = circles(6)


def grey(level: int, ground: int = 0, dtype: Any = np.uint8) -> Draw:
    return lambda mask: Image.fromarray(np.where(mask, level, ground).astype(dtype))


def colour(left: tuple[int, ...], ground: tuple[int, ...] = (0, 0, 0), right: tuple[int, ...] | None = None) -> Draw:
    """Defects in one colour, or in two: left and right of the middle."""

    def draw(mask: Mask) -> Image.Image:
        pixels = np.zeros((*SHAPE, len(ground)), np.uint8) + np.array(ground, np.uint8)
        pixels[mask] = left
        if right is not None:
            middle = SHAPE[1] // 2
            pixels[:, middle:][mask[:, middle:]] = right
        return Image.fromarray(pixels)

    return draw


def palette(*colours: int, **info: Any) -> Draw:
    def draw(mask: Mask) -> Image.Image:
        image = Image.frombytes("P", SHAPE[::-1], mask.astype(np.uint8).tobytes())
        if colours:
            image.putpalette(colours)
        image.info.update(info)
        return image

    return draw


def save(folder: Path, draws: list[tuple[Draw, Mask]], suffix: str = "png", **options: Any) -> tuple[Path, ...]:
    paths = tuple(folder / f"{i}_mask.{suffix}" for i in range(len(draws)))
    for path, (draw, mask) in zip(paths, draws, strict=True):
        draw(mask).save(path, **options)
    return paths


def read(paths: tuple[Path, ...]) -> list[Mask]:
    masks = MaskSet(paths)
    return [MaskFile((path,), masks).read() for path in paths]


def overlap(one: Mask, other: Mask) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def refusal(paths: tuple[Path, ...]) -> tuple[str, list[str]]:
    """Why masks are refused, and the names of those that the reason names."""
    ((reason, names),) = choose_reading(paths).problems.items()
    return reason, [Path(name).stem.removesuffix("_mask") for name in names]


DRAWINGS = {
    "white": grey(255),
    "grey": grey(100),
    "labels 0 and 1": grey(1),
    "labels 0 and 1 at 16 bits": grey(1, dtype=np.uint16),
    "8-bit levels at 16 bits": grey(255, dtype=np.uint16),
    "white at 16 bits": grey(65535, dtype=np.uint16),
    "one bit": lambda mask: Image.fromarray(mask),
    "no black": grey(235, 16),
    "red": colour((255, 0, 0)),
    "red and yellow": colour((255, 0, 0), right=(255, 255, 0)),
    "dark blue": colour((0, 0, 60)),
    "as bright as the ground": colour((255, 0, 0), ground=(0, 130, 0)),
    "red on white": colour((255, 0, 0), ground=(255, 255, 255)),
    "black on white": grey(0, 255),
    "palette": palette(0, 0, 0, 128, 0, 0),
    "palette without colours": palette(),
    "palette of one colour": palette(7, 7, 7, 7, 7, 7),
    "palette with a transparent ground": palette(9, 200, 9, 128, 0, 0, transparency=0),
    "white on transparent": colour((255, 255, 255, 255), ground=(0, 0, 0, 0)),
    "black on transparent": colour((0, 0, 0, 255), ground=(255, 255, 255, 0)),
    "half-transparent red": colour((255, 0, 0, 128), ground=(0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_defect_is_marked_as_a_whole_in_whatever_it_is_drawn(tmp_path: Path, name: str) -> None:
    marked = read(save(tmp_path, [(DRAWINGS[name], mask) for mask in CIRCLES]))
    for mask, truth in zip(marked, CIRCLES, strict=True):
        np.testing.assert_array_equal(mask, truth)


@pytest.mark.parametrize("quality", [30, 75, 100])
@pytest.mark.parametrize("name", ["white", "red", "red and yellow", "black on white", "no black"])
def test_jpeg_is_split_midway_between_the_two_main_levels(tmp_path: Path, name: str, quality: int) -> None:
    """At quality 100 the files have at most 16 levels, which are no labels all the same."""
    paths = save(tmp_path, [(DRAWINGS[name], mask) for mask in CIRCLES], "jpg", quality=quality, subsampling=0)
    assert min(overlap(mask, truth) for mask, truth in zip(read(paths), CIRCLES, strict=True)) > 0.97


@pytest.mark.parametrize(("level", "threshold"), [(255, 127.5), (100, 50)])
def test_soft_edges_are_split_midway(tmp_path: Path, level: int, threshold: float) -> None:
    def soft(mask: Mask) -> Image.Image:
        return grey(level)(mask).filter(ImageFilter.GaussianBlur(1.5))

    paths = save(tmp_path, [(soft, mask) for mask in CIRCLES])
    assert choose_reading(paths).threshold / 257 == threshold
    for path, mask in zip(paths, read(paths), strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(mask, np.array(image) > threshold)


def test_soft_lines_without_areas_are_split_at_half_their_brightest_level(tmp_path: Path) -> None:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    lines = (abs(rows - 0.37 * columns - 20) < 1.2) & (columns > 10)
    paths = save(tmp_path, [(lambda mask: grey(255)(mask).filter(ImageFilter.GaussianBlur(1)), lines)])
    with Image.open(paths[0]) as image:
        assert choose_reading(paths).threshold / 257 == np.array(image).max() / 2


def test_sixteen_levels_are_labels_and_seventeen_are_not(tmp_path: Path) -> None:
    steps = np.repeat(np.repeat(np.arange(16, dtype=np.uint8), 10)[None] * 3, 120, axis=0)
    (path,) = save(tmp_path, [(lambda _: Image.fromarray(steps), EMPTY)])
    first = MaskSet((path, save(tmp_path / "..", [(grey(0), EMPTY)])[0]))
    np.testing.assert_array_equal(MaskFile((path,), first).read(), steps > 0)
    steps[0, 0] = 200
    Image.fromarray(steps).save(path)
    assert refusal((path,))[0] == mask_levels.MANY_LEVELS


def test_all_masks_decide_together(tmp_path: Path) -> None:
    """A grey of 100 alone is a label; among soft white masks it is below the middle."""
    soft = [(lambda mask: grey(255)(mask).filter(ImageFilter.GaussianBlur(1)), mask) for mask in CIRCLES]
    faint = EMPTY.copy()
    faint[5, 5:14] = True
    paths = save(tmp_path, [*soft, (grey(100), faint)])
    assert not read(paths)[-1].any()
    assert read(paths[-1:])[0].sum() == 9


def test_inverted_masks_are_noted_and_others_are_not(tmp_path: Path) -> None:
    paths = save(tmp_path, [(grey(0, 255), mask) for mask in CIRCLES])
    assert (
        choose_reading(paths).note == "white is the larger part of 6 of 6 masks, so what differs from white is a defect"
    )
    assert choose_reading(save(tmp_path, [(grey(255), mask) for mask in CIRCLES])).note == ""


def test_empty_masks_are_empty_beside_inverted_and_ordinary_masks(tmp_path: Path) -> None:
    for draw in (grey(255), grey(0, 255)):
        marked = read(save(tmp_path, [(draw, CIRCLES[0]), *[(draw, EMPTY)] * 5]))
        assert [int(mask.sum()) for mask in marked] == [int(CIRCLES[0].sum()), 0, 0, 0, 0, 0]
    assert not any(mask.any() for mask in read(save(tmp_path, [(grey(255), EMPTY)] * 3)))


def test_large_defects_in_a_few_masks_do_not_invert_them(tmp_path: Path) -> None:
    large = EMPTY.copy()
    large[:, 20:] = True
    masks = [large, ~EMPTY, *CIRCLES[:2]]
    np.testing.assert_array_equal(read(save(tmp_path, [(grey(255), mask) for mask in masks])), masks)
    masks = [large, EMPTY]  # an empty mask tells what the ground is
    np.testing.assert_array_equal(read(save(tmp_path, [(grey(255), mask) for mask in masks])), masks)


def object_mask(defect: int) -> Draw:
    """A part on black, with its defects at another level."""

    def draw(mask: Mask) -> Image.Image:
        pixels = np.pad(np.full((100, 140), defect // 2, np.uint8), 10)
        pixels[mask] = defect
        return Image.fromarray(pixels)

    return draw


def test_masks_of_one_level_are_refused(tmp_path: Path) -> None:
    paths = save(tmp_path, [(grey(255), ~EMPTY)] * 3)
    assert refusal(paths) == (mask_levels.ONE_LEVEL, ["0", "1", "2"])


@pytest.mark.parametrize(("suffix", "defect"), [("png", 2), ("png", 254), ("jpg", 254)])
def test_masks_of_parts_with_their_defects_are_refused(tmp_path: Path, suffix: str, defect: int) -> None:
    reason, names = refusal(save(tmp_path, [(object_mask(defect), mask) for mask in CIRCLES], suffix, quality=90))
    assert reason == mask_levels.THREE_LEVELS.format(f"grey {defect // 2}")
    assert len(names) == 6


def test_masks_without_a_common_ground_are_refused(tmp_path: Path) -> None:
    paths = save(tmp_path, [(grey(200, 50), CIRCLES[0]), (grey(50, 200), CIRCLES[1])])
    assert refusal(paths)[0] == mask_levels.NO_GROUND


def test_more_labels_than_sixteen_are_refused(tmp_path: Path) -> None:
    paths = save(tmp_path, [(grey(9 * i + 9), circle) for i, circle in enumerate(circles(20))])
    assert refusal(paths)[0] == mask_levels.MANY_LEVELS


def test_a_photograph_among_masks_is_refused_by_its_name(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    paths = save(tmp_path, [*[(grey(255), mask) for mask in CIRCLES], (lambda _: Image.fromarray(noise), EMPTY)])
    assert refusal(paths) == (mask_levels.MANY_LEVELS, ["6"])


def test_noise_without_a_defect_is_refused(tmp_path: Path) -> None:
    noise = abs(np.random.default_rng(0).normal(0, 10, SHAPE)).astype(np.uint8)
    assert refusal(save(tmp_path, [(lambda _: Image.fromarray(noise), EMPTY)]))[0] == mask_levels.MANY_LEVELS


def test_areas_at_a_third_level_are_refused_where_edges_are_soft(tmp_path: Path) -> None:
    """Half the level of white lies just where soft edges are split."""
    big = EMPTY.copy()
    big[20:40, 20:40] = True
    draws = [(lambda mask: grey(255)(mask).filter(ImageFilter.GaussianBlur(1)), mask) for mask in CIRCLES]
    draws.append((lambda mask: grey(128)(mask).filter(ImageFilter.GaussianBlur(1)), big))
    assert refusal(save(tmp_path, draws)) == (mask_levels.MANY_LEVELS, ["6"])


def test_unreadable_masks_are_left_to_the_reader(tmp_path: Path) -> None:
    paths = save(tmp_path, [(grey(0, 255), mask) for mask in CIRCLES])
    paths[0].write_bytes(b"broken")
    reading = choose_reading(paths)
    assert (reading.note[:34], dict(reading.problems)) == ("white is the larger part of 5 of 5", {})


def test_a_large_mask_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save(tmp_path, [(DRAWINGS["red"], mask) for mask in CIRCLES], "jpg")
    whole = choose_reading(paths)
    monkeypatch.setattr(mask_levels, "BLOCK_ROWS", 7)
    monkeypatch.setattr(mask_levels, "SAMPLE_SIZE", 500)
    assert choose_reading(paths) == whole
