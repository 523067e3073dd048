"""The second step of fitting: normal images as pixels of one form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_image

from oddlens.data.image_set import ImageSet
from oddlens.data.training_images import DEFAULT_SIDE, choose_spec, load_training_images
from oddlens.errors import DataError, ImageError


def blank_images(height: int, width: int) -> ImageSet:
    return ImageSet.from_array(np.zeros((2, height, width, 1), dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "size", "max_side", "expected"),
    [
        ((20, 24), None, None, (20, 24)),
        ((20, 24), None, 192, (20, 24)),  # small images stay as they are
        ((20, 24), 12, 192, (8, 12)),  # a requested size is that of the longer side; the other is rounded
        ((400, 300), None, None, (DEFAULT_SIDE, 96)),
        ((400, 300), None, 192, (192, 144)),
        ((150, 150), None, 192, (144, 144)),  # no larger than the images, in steps of 8
    ],
)
def test_the_input_is_as_large_as_requested_or_as_the_images_need(
    shape: tuple[int, int], size: int | None, max_side: int | None, expected: tuple[int, int]
) -> None:
    spec = choose_spec(blank_images(*shape), size, max_side)
    assert (spec.height, spec.width) == expected


def test_pixels_and_region_have_the_form_of_the_input() -> None:
    images = replace(blank_images(20, 24), source="blanks", normal="good")
    loaded = load_training_images(images, None, None, "0,0,0.5,1")
    assert loaded.pixels.shape == (2, 20, 24, 1)
    assert loaded.roi is not None
    np.testing.assert_array_equal(loaded.roi, np.tile(np.arange(24) < 12, (20, 1)))
    assert (loaded.images.source, loaded.images.normal) == ("blanks", "good")
    assert load_training_images(images, None, None, None).roi is None


def test_a_wrong_region_and_an_unreadable_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="region of interest"):
        load_training_images(blank_images(20, 24), None, None, "0,0,2,1")
    files = [write_image(tmp_path / "good.png"), tmp_path / "broken.png"]
    files[1].write_bytes(b"broken")
    with pytest.raises(ImageError, match="broken"):
        load_training_images(ImageSet.from_files(files), None, None, None)
