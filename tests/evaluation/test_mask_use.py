"""Which masks of a test set count for pixel metrics, and what is said about the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.data.image_set import ImageSet
from oddlens.errors import ImageError
from oddlens.evaluation.mask_use import CONTRADICTING, EMPTY, MaskUse, survey_masks

SIZE = (20, 30)
SPOT = np.zeros(SIZE, bool)
SPOT[3:6, 4:9] = True
EMPTY_MASK = np.zeros(SIZE, bool)


def images_with(masks: list[npt.NDArray[np.bool_] | None], labels: list[int]) -> ImageSet:
    pixels = np.zeros((len(masks), *SIZE, 1), np.uint8)
    return ImageSet.from_array(pixels, name="test", label=labels, masks=masks)


def test_each_mask_is_used_or_named_with_the_reason() -> None:
    masks = [None, EMPTY_MASK, SPOT, SPOT, EMPTY_MASK, None, SPOT[:10, :15]]
    use = survey_masks(images_with(masks, [0, 0, 0, 1, 1, 1, 1]))
    assert use.sizes == [SIZE, SIZE, SIZE, SIZE, None, None, (10, 15)]
    assert use.n_used == 2
    assert use.unused == {EMPTY: ("test[4]",), CONTRADICTING: ("test[2]",)}
    assert use.without_mask == ("test[5]",)
    assert use.stretched == ()
    assert use.lines() == [
        "masks not used, as they mark no pixel of anomalous images: test[4]",
        "masks not used, as they mark pixels of normal images: test[2]",
        "anomalous images without a mask, left out of pixel metrics: test[5]",
    ]


def test_masks_of_another_shape_than_their_image_are_named() -> None:
    use = survey_masks(images_with([SPOT, SPOT.T, SPOT[:, :29], SPOT.repeat(2, 0).repeat(2, 1)], [1, 1, 1, 1]))
    assert use.stretched == ("test[1]", "test[2]")
    assert use.n_used == 4
    assert "another aspect ratio than their image" in use.lines()[0]


def test_a_complete_set_of_masks_leaves_nothing_to_say() -> None:
    use = survey_masks(images_with([None, SPOT], [0, 1]))
    assert use.lines() == []
    assert use.as_json["masks"]["n_used"] == 1
    assert survey_masks(images_with([None, None], [0, 1])) == MaskUse()
    assert MaskUse().as_json == {}


def test_masks_without_an_image_are_among_the_unused() -> None:
    use = survey_masks(images_with([None, EMPTY_MASK], [0, 1])).with_unmatched({"a reason": ("x.png",) * 11})
    assert use.as_json["masks"]["unused"] == {"a reason": ["x.png"] * 11, EMPTY: ["test[1]"]}
    assert use.lines()[0] == f"masks not used, as a reason: {'x.png, ' * 9}x.png and 1 more"
    assert "masks" in MaskUse().with_unmatched({"a reason": ("x.png",)}).as_json


def save(path: Path, pixels: npt.NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_files_are_named_and_inverted_sets_noted(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", np.where(SPOT, 0, 255).astype(np.uint8)) for i in range(3)]
    save(paths[2], np.full(SIZE, 255, np.uint8))
    names = [save(tmp_path / f"image{i}.png", np.zeros(SIZE, np.uint8)) for i in range(3)]
    images = ImageSet.from_files(names, label=1, masks=paths)
    use = survey_masks(images)
    assert use.unused == {EMPTY: (str(paths[2]),)}
    assert use.lines()[0] == "masks: white is the larger part of 2 of 2 masks, so what differs from white is a defect"
    assert use.as_json["masks"]["notes"] == list(use.notes)


def test_unreadable_masks_are_an_error_or_are_collected(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", SPOT) for i in range(3)]
    paths[1].write_bytes(b"broken")
    images = replace(images_with([None, None, None], [1, 1, 1]), masks=ImageSet.from_files("abc", masks=paths).masks)
    with pytest.raises(ImageError, match=r"1\.png: is not a PNG"):
        survey_masks(images)
    errors: list[ImageError] = []
    use = survey_masks(images, errors)
    assert [error.name for error in errors] == [str(paths[1])]
    assert (use.n_used, use.sizes[1]) == (2, None)
