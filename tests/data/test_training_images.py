"""The second step of fitting: normal images as pixels of one form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_image

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.training_images import (
    DEFAULT_SIDE,
    ENSEMBLE_SIDES,
    PRETRAINED_SIDES,
    MaxSides,
    find_shrinking,
    load_training_images,
)
from oddlens.errors import DataError, ImageError


def blank_images(height: int, width: int) -> ImageSet:
    return ImageSet.from_array(np.zeros((2, height, width, 1), dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "size", "sides", "expected"),
    [
        ((20, 24), None, None, (20, 24)),
        ((20, 24), None, ENSEMBLE_SIDES, (20, 24)),  # small images stay as they are
        ((20, 24), 12, ENSEMBLE_SIDES, (8, 12)),  # a requested size is that of the longer side; the other is rounded
        ((400, 300), None, None, (DEFAULT_SIDE, 96)),
        ((400, 300), None, ENSEMBLE_SIDES, (192, 144)),
        ((150, 150), None, ENSEMBLE_SIDES, (144, 144)),  # no larger than the images, in steps of 8
        ((900, 900), None, PRETRAINED_SIDES, (256, 256)),
        ((1263, 500), None, PRETRAINED_SIDES, (512, 200)),  # elongated images need a longer side
        ((300, 400), None, PRETRAINED_SIDES, (256, 344)),
    ],
)
def test_the_input_is_as_large_as_requested_or_as_the_images_need(
    shape: tuple[int, int], size: int | None, sides: MaxSides | None, expected: tuple[int, int]
) -> None:
    spec = load_training_images(blank_images(*shape), size, sides, None).spec
    assert (spec.height, spec.width) == expected


def test_pixels_and_region_have_the_form_of_the_input() -> None:
    images = replace(blank_images(20, 24), source="blanks", normal="good")
    loaded = load_training_images(images, None, None, "0,0,0.5,1")
    assert loaded.pixels.shape == (2, 20, 24, 1)
    assert loaded.roi is not None
    np.testing.assert_array_equal(loaded.roi, np.tile(np.arange(24) < 12, (20, 1)))
    assert (loaded.images.source, loaded.images.normal) == ("blanks", "good")
    assert load_training_images(images, None, None, None).roi is None


def infos(*sizes: tuple[int, int]) -> list[ImageInfo]:
    """Grey images of these (width, height)."""
    return [ImageInfo(height, width, 1, 8) for width, height in sizes]


def test_images_shrunk_more_than_fourfold_are_remarked_on_with_what_that_hides() -> None:
    shrinking = find_shrinking(infos(*[(1263, 500)] * 3), (72, 192))
    assert shrinking is not None
    assert shrinking.index == (0, 1, 2)
    assert shrinking.text == (
        "images of 1263 x 500 pixels are shrunk 6.6-fold to 192 x 72: a defect smaller than about 7 pixels of the "
        "original covers less than one pixel of the input and is likely to be missed; fit with a larger --size or "
        "with --tile, or crop the images"
    )


@pytest.mark.parametrize("size", [(768, 288), (288, 200), (192, 72), (20, 10)])
def test_images_shrunk_up_to_fourfold_or_enlarged_are_not_remarked_on(size: tuple[int, int]) -> None:
    assert find_shrinking(infos(size), (72, 192)) is None


def test_of_several_sizes_those_concerned_are_remarked_on() -> None:
    shrinking = find_shrinking(infos((200, 100), (1000, 500), (4032, 3024), (192, 72)), (72, 192))
    assert shrinking is not None
    assert shrinking.index == (1, 2)
    assert shrinking.factor == 21
    assert "2 of 4 images of up to 4032 x 3024 pixels are shrunk 5.2- to 21-fold to 192 x 72: " in shrinking.text
    assert "smaller than about 21 pixels of the largest" in shrinking.text


def test_an_upright_image_is_measured_along_its_height() -> None:
    shrinking = find_shrinking(infos((500, 1263)), (192, 72))
    assert shrinking is not None
    assert "images of 500 x 1263 pixels are shrunk 6.6-fold to 72 x 192: " in shrinking.text


def test_loaded_images_have_the_remark_for_the_size_that_they_were_brought_to() -> None:
    (remark,) = load_training_images(blank_images(400, 800), None, None, None).remarks
    assert remark.startswith("size: images of 800 x 400 pixels are shrunk 6.2-fold to 128 x 64: ")
    (remark,) = load_training_images(blank_images(400, 800), None, ENSEMBLE_SIDES, None).remarks
    assert remark.startswith("size: images of 800 x 400 pixels are shrunk 4.2-fold to 192 x 96: ")
    assert load_training_images(blank_images(400, 800), 256, ENSEMBLE_SIDES, None).remarks == ()


def test_sixteen_bit_images_are_decoded_once_for_their_peak_and_once_to_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write_image(tmp_path / f"{i}.png", 3000 + i, (200, 300), np.uint16) for i in range(3)]
    decoded: list[int] = []
    real = ImageSet.image

    def image(self: ImageSet, i: int, spec: InputSpec | None = None) -> Pixels:
        decoded.append(i)
        return real(self, i, spec)

    monkeypatch.setattr(ImageSet, "image", image)
    load_training_images(ImageSet.from_files(files), None, ENSEMBLE_SIDES, None)
    assert sorted(decoded) == [0, 0, 1, 1, 2, 2]


def test_a_wrong_region_and_an_unreadable_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="region of interest"):
        load_training_images(blank_images(20, 24), None, None, "0,0,2,1")
    files = [write_image(tmp_path / "good.png"), tmp_path / "broken.png"]
    files[1].write_bytes(b"broken")
    with pytest.raises(ImageError, match="broken"):
        load_training_images(ImageSet.from_files(files), None, None, None)
