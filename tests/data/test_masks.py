"""Mask files of a set are read alike, and only when a mask is needed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.data import masks as masks_module
from oddlens.data.image_set import ImageSet, concatenate
from oddlens.data.mask_levels import MaskReading
from oddlens.data.masks import MaskFile, MaskSet, read_mask
from oddlens.errors import DataError, ImageError


def save(path: Path, array: npt.NDArray[Any]) -> Path:
    Image.fromarray(array).save(path)
    return path


def squares(level: int, ground: int = 0) -> npt.NDArray[np.uint8]:
    pixels = np.full((8, 8), ground, np.uint8)
    pixels[2:4, 2:5] = level
    return pixels


def test_subsets_and_unions_read_a_mask_as_its_whole_set_does(tmp_path: Path) -> None:
    """Alone, the third mask would be white on black."""
    wide = np.full((8, 8), 255, np.uint8)
    wide[:, :6] = 0
    arrays = [squares(0, 255), squares(0, 255), wide]
    paths = [save(tmp_path / f"{i}.png", array) for i, array in enumerate(arrays)]
    inverted = ImageSet.from_files(["a.png", "b.png", "c.png"], label=1, masks=paths)
    other = ImageSet.from_files(["d.png"], label=1, masks=[save(tmp_path / "d.png", squares(3))])
    union = concatenate([other, inverted.subset([2])])
    np.testing.assert_array_equal(union.mask(0), squares(3) > 0)
    np.testing.assert_array_equal(union.mask(1), wide == 0)
    assert len(union.mask_sets) == 2
    again = pickle.loads(pickle.dumps(union))
    np.testing.assert_array_equal(again.mask(1), wide == 0)


def test_no_mask_is_decoded_before_one_is_needed_and_all_are_surveyed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [save(tmp_path / f"{i}.png", squares(i + 1)) for i in range(3)]
    surveys = []

    def count(files: tuple[Path, ...], ground: Any) -> Any:
        surveys.append(files)
        return MaskReading()

    monkeypatch.setattr(masks_module, "choose_reading", count)
    images = ImageSet.from_files(["a.png", "b.png", "c.png"], label=1, masks=paths).subset([0, 2])
    assert surveys == []
    images.mask(0)
    images.mask(1)
    assert surveys == [tuple(paths)]


def test_several_masks_of_one_image_are_united(tmp_path: Path) -> None:
    one, other = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    one[0, 0], other[7, 7] = 255, 254
    paths = (save(tmp_path / "0.png", one), save(tmp_path / "1.png", other))
    assert np.argwhere(MaskFile(paths, MaskSet(paths)).read()).tolist() == [[0, 0], [7, 7]]
    save(paths[1], other[:4])
    with pytest.raises(ImageError, match=r"1\.png: has another size than .*0\.png, a mask of the same image"):
        MaskFile(paths, MaskSet(paths)).read()


def test_problems_of_a_set_are_an_error_that_names_ten_masks(tmp_path: Path) -> None:
    paths = tuple(save(tmp_path / f"{i:02}.png", np.full((4, 4), 255, np.uint8)) for i in range(12))
    with pytest.raises(DataError, match=r"^masks cannot be used: every mask has .*09\.png and 2 more\)$"):
        MaskFile(paths[:1], MaskSet(paths)).read()
    with pytest.raises(DataError, match=r"cannot be used: because \(x and y\)$"):
        MaskFile(paths[:1], MaskSet(paths, {"because": ("x and y",)})).read()


def test_a_mask_alone_marks_what_is_not_black_even_if_it_is_most(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1, 128, 255]], np.uint8))
    assert read_mask(path).tolist() == [[False, True, True, True]]
    assert read_mask(save(path, np.full((3, 3), 255, np.uint8))).all()
    assert not read_mask(save(path, np.zeros((3, 3), np.uint8))).any()


def test_masks_of_any_mode_are_read(tmp_path: Path) -> None:
    marks = np.eye(6, dtype=bool)
    white = marks[..., None].repeat(3, axis=-1) * np.uint8(255)
    see_through = np.concatenate([np.full((6, 6, 3), 255, np.uint8), white[..., :1]], axis=-1)
    for name, array in {"bits": marks, "colour": white, "transparent": see_through}.items():
        np.testing.assert_array_equal(read_mask(save(tmp_path / f"{name}.png", array)), marks)


def test_a_mask_alone_with_many_levels_is_split_midway_and_refused_without_black(tmp_path: Path) -> None:
    edge = np.repeat([0, *range(0, 255, 6), 255], [30, *[1] * 43, 60])[None].repeat(8, axis=0).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", edge)), edge > 127)
    for pixels in (np.maximum(edge, 60), squares(200, 100)):
        with pytest.raises(ImageError, match=r"a\.png: there are several levels but no black"):
            read_mask(save(tmp_path / "a.png", pixels))
