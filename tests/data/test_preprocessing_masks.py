"""Regions of interest are read, and maps resized."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.config.base import InputSpec
from oddlens.data.image_io import decode
from oddlens.data.masks import read_mask
from oddlens.data.preprocessing import read_roi, resize_map
from oddlens.errors import DataError

Array = npt.NDArray[Any]


def save(path: Path, array: Array) -> Path:
    Image.fromarray(array).save(path)
    return path


def spec_of(height: int, width: int) -> InputSpec:
    return InputSpec.model_validate({"height": height, "width": width, "channels": 1, "value_max": 255})


def test_a_map_is_enlarged_by_interpolation_between_pixel_centres() -> None:
    grown = resize_map(np.array([[0.0, 1.0]]), 2, 4)
    assert grown.dtype == np.float32
    np.testing.assert_allclose(grown, [[0, 0.25, 0.75, 1]] * 2, atol=1e-6)


def test_a_map_may_have_values_outside_any_image_range() -> None:
    np.testing.assert_allclose(resize_map(np.full((3, 5), -1e6), 7, 2), np.full((7, 2), -1e6))


def test_a_region_of_interest_is_read_from_fractions() -> None:
    roi = read_roi("0.25, 0, 0.75, 0.5", spec_of(4, 8))
    expected = np.zeros((4, 8), bool)
    expected[:2, 2:6] = True
    np.testing.assert_array_equal(roi, expected)
    assert read_roi("0,0,1,1", spec_of(5, 7)).all()
    assert read_roi("0.2,0,0.8,1", spec_of(4, 4))[0].tolist() == [False, True, True, False]  # by pixel centres


def test_a_region_of_interest_is_read_from_a_mask_of_any_size(tmp_path: Path) -> None:
    mask = np.zeros((400, 200), np.uint8)
    mask[:200, 50:] = 255
    roi = read_roi(str(save(tmp_path / "roi.png", mask)), spec_of(8, 8))
    expected = np.zeros((8, 8), bool)
    expected[:4, 2:] = True
    np.testing.assert_array_equal(roi, expected)


@pytest.mark.parametrize("level", [255, 1, 100])
def test_a_region_of_interest_may_be_drawn_in_any_level_and_cover_most_of_the_image(tmp_path: Path, level: int) -> None:
    mask = np.full((40, 40), level, np.uint8)
    mask[:10] = 0
    roi = read_roi(str(save(tmp_path / "roi.png", mask)), spec_of(8, 8))
    assert roi.sum(axis=1).tolist() == [0, 0, 8, 8, 8, 8, 8, 8]
    colour = mask[..., None] * np.array([1, 0, 0], np.uint8)
    np.testing.assert_array_equal(read_roi(str(save(tmp_path / "red.png", colour)), spec_of(8, 8)), roi)


def test_a_region_of_interest_without_black_is_refused(tmp_path: Path) -> None:
    mask = np.full((40, 40), 200, np.uint8)
    assert read_roi(str(save(tmp_path / "roi.png", mask)), spec_of(8, 8)).all()
    mask[:10] = 100
    with pytest.raises(DataError, match=r"region of interest .*roi\.png: there are several levels but no black"):
        read_roi(str(save(tmp_path / "roi.png", mask)), spec_of(8, 8))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("0.5,0,0.4,1", "0 <= left < right <= 1"),
        ("0,0,1,1.5", "0 <= left < right <= 1"),
        ("nan,0,1,1", "0 <= left < right <= 1"),
        ("0,0,0.01,0.01", "enlarge it"),
        ("0,0,1", "pass fractions such as"),
        ("no-such-mask.png", "does not exist"),
    ],
)
def test_an_invalid_region_is_refused_in_one_line(source: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        read_roi(source, spec_of(8, 8))
    assert "\n" not in str(raised.value)


def test_an_empty_region_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "roi.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match="contains no pixel of 8 x 8"):
        read_roi(str(path), spec_of(8, 8))


# Real files


def real_tiles() -> Iterator[tuple[Path, Path]]:
    """Up to 40 magnetic tiles with their masks."""
    root = Path(os.environ["ODDLENS_DATA"]) / "magnetic-tile"
    masks = sorted((root / "ground_truth").rglob("*_mask.png"))[::10][:40]
    for mask in masks:
        yield next((root / "test" / mask.parent.name).glob(mask.name.replace("_mask.png", ".*"))), mask


def test_real_masks_have_the_size_of_their_image() -> None:
    if "ODDLENS_DATA" not in os.environ or not (Path(os.environ["ODDLENS_DATA"]) / "magnetic-tile").is_dir():
        pytest.skip("set ODDLENS_DATA to the folder that contains magnetic-tile")
    pairs = list(real_tiles())
    assert len(pairs) > 20
    for image, mask in pairs:
        assert decode(image).shape[:2] == read_mask(mask).shape
