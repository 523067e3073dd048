"""Images in memory are accepted where their meaning is plain, and refused with the fix where it is not."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.open import as_image_set
from oddlens.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
RGBA = np.dstack([PIXELS, np.full((12, 10, 1), 255, np.uint8)])


def png(pixels: npt.NDArray[np.uint8] = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def read_only(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    pixels = pixels.copy()
    pixels.setflags(write=False)
    return pixels


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS[None],
        [PIXELS],
        (PIXELS,),
        np.asfortranarray(PIXELS),
        read_only(PIXELS),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS)[None],
        [torch.from_numpy(PIXELS)],
        Image.fromarray(PIXELS),
        [Image.fromarray(PIXELS)],
        Image.fromarray(RGBA),
        png(),
        [png()],
        bytearray(png()),
        memoryview(png()),
    ],
    ids=lambda images: type(images).__name__,
)
def test_one_image_in_any_form_has_the_same_pixels(images: Any) -> None:
    image_set = as_image_set(images)
    assert image_set.names == ("array[0]",)
    np.testing.assert_array_equal(image_set.image(0), PIXELS)
    (info,) = image_set.infos()
    assert (info.height, info.width, info.channels, info.bits) == (12, 10, 3, 8)


@pytest.mark.parametrize("grey", [GREY, GREY[..., None], torch.from_numpy(GREY.copy()), Image.fromarray(GREY)])
def test_a_grey_image_needs_no_channel(grey: Any) -> None:
    for images in (grey, [grey]):
        np.testing.assert_array_equal(as_image_set(images).image(0), GREY[..., None])


def test_a_list_may_mix_all_forms_and_names_images_by_position(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.png", "folder/b.png", "folder/c.png"):
        (tmp_path / name).write_bytes(png())
    file = tmp_path / "a.png"
    images = as_image_set([PIXELS, str(file), folder, Image.fromarray(GREY), png(), PIXELS.astype(">u2")])
    names = ("array[0]", str(file), f"{folder}/b.png", f"{folder}/c.png", "array[3]", "array[4]", "array[5]")
    assert images.names == names
    assert images.source == "a list of 6"
    assert [images.image(i).shape for i in range(7)] == [(12, 10, 3)] * 4 + [(12, 10, 1)] + [(12, 10, 3)] * 2
    assert images.image(6).dtype == np.uint16
    assert images.subset([4, 0]).names == ("array[3]", "array[0]")


def test_arrays_are_not_copied_and_contents_of_files_are_not_decoded_before_use() -> None:
    images = as_image_set([PIXELS, GREY, b"not an image"])
    assert np.shares_memory(images.image(0), PIXELS)
    assert np.shares_memory(images.image(1), GREY)
    readable, problems = images.readable()
    assert readable.names == ("array[0]", "array[1]")
    assert [problem.name for problem in problems] == ["array[2]"]


def test_many_arrays_are_a_stack() -> None:
    assert as_image_set(np.zeros((5, 12, 10), np.uint8)).names == tuple(f"array[{i}]" for i in range(5))
    assert len(as_image_set(torch.zeros(5, 12, 10, 3, dtype=torch.uint8))) == 5
    assert len(as_image_set(torch.zeros(5, 12, 10, dtype=torch.uint8))) == 5
    assert len(as_image_set(np.zeros((3, 12, 10), np.uint8))) == 3, "the documented form (N, H, W)"


def test_an_image_set_is_returned_as_it_is() -> None:
    images = ImageSet.from_array(PIXELS[None])
    assert as_image_set(images) is images


def ragged() -> npt.NDArray[Any]:
    images = np.empty(2, dtype=object)
    images[0], images[1] = PIXELS, GREY
    return images


EMPTY = ImageSet.from_files([])
CHANNELS_FIRST = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        # channels first
        (CHANNELS_FIRST / 255, r"array: .*\(3, 12, 10\): channels must be last: np\.moveaxis\(np.asarray\(tensor\),"),
        (CHANNELS_FIRST[None] / 255, r"array: .*channels must be last: np\.moveaxis\(array, 1, -1\)"),
        ([PIXELS, CHANNELS_FIRST], r"array\[1\]: .*channels must be last: np\.moveaxis\(array, 0, -1\)"),
        ([GREY[None]], r"array\[0\]: .*\(1, 12, 10\): channels must be last"),
        # shapes and types
        (RGBA, r"array: .*\(12, 10, 4\): an image has 1 channel .*array\[\.\.\., :3\]"),
        ([PIXELS, RGBA], r"array\[1\]: .*not 4; array\[\.\.\., :3\]"),
        ([RGBA[..., :2]], r"array\[0\]: .*not 2; array\[\.\.\., :1\]"),
        ([PIXELS[None]], r"array\[0\]: .*several images; pass this array alone, or join several"),
        ([np.zeros(12, np.uint8)], r"array\[0\]: .*pass an image as \(H, W\)"),
        ([PIXELS, PIXELS.astype(np.int64)], r"array\[1\]: has type int64; convert it with astype\(np\.uint8\)"),
        ([PIXELS.astype(float)], r"array\[0\]: contains floats .*astype\(np\.uint8\)"),
        (PIXELS.astype(object), r"array: has type object; convert it with astype"),
        (ragged(), r"array: is an array of objects; make a list of its entries: images\.tolist\(\)"),
        (np.array(["a.png", "b.png"]), r"array: is an array of text; make a list of its entries: images\.tolist"),
        (torch.ones(12, 10, 3, requires_grad=True), r"array: is of type Tensor, which NumPy cannot convert .*detach"),
        (torch.ones(12, 10, 3, dtype=torch.bfloat16), r"array: .*cannot convert .*make an array of it, of type uint8"),
        # one bad entry
        ([PIXELS, None], r"array\[1\]: is None, which cv2\.imread returns"),
        ([PIXELS, 7], r"array\[1\]: is of type int; pass images as paths, arrays"),
        ([(PIXELS, 0)], r"array\[0\]: is of type tuple; pass the image alone, without a label"),
        ((Image.fromarray(PIXELS), 0), r"array\[1\]: is of type int"),
        ([{"image": PIXELS}], r"array\[0\]: is of type dict; pass the images in it"),
        ([PIXELS, Image.new("F", (4, 4))], r"array\[1\]: contains 32-bit"),
        # not a list
        ([], r"there are no images to open"),
        (None, r"images: is None"),
        ({"a": PIXELS}, r"images: is of type dict; pass the images in it, such as list\(images\.values\(\)\)"),
        ((image for image in [PIXELS]), r"images: is of type generator; make a list of it: list\(images\)"),
        (map(str, ["a.png"]), r"images: is of type map; make a list of it"),
        ({"a.png"}, r"images: is of type set; make a list of it"),
        (io.BytesIO(png()), r"images: is an open file \(BytesIO\); pass its path, or its content: file\.read\(\)"),
        (DataSet("x", EMPTY, EMPTY, "good"), r"images: is a data set .*data\.train or data\.test"),
        (5, r"images: is of type int; pass images as paths"),
        (np.ndarray, r"images: is of type type"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_the_fix(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}") as raised:
        as_image_set(images)
    assert "\n" not in str(raised.value)


def test_paths_in_any_form_are_opened(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png())
    (entry,) = tmp_path.iterdir()
    for path in (str(file), file, np.str_(file), entry, [np.str_(file)], np.array([str(file)]).tolist()):
        assert as_image_set(path).names == (str(file),)
    with pytest.raises(DataError, match=r"make a list of it"):
        as_image_set(tmp_path.glob("*.png"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"array\[0\]: is a path as bytes; pass it as text: os\.fsdecode"):
        as_image_set(bytes(file))


class Table:
    """A column of a table, as pandas has it."""

    def __array__(self, dtype: object = None, copy: object = None) -> npt.NDArray[Any]:
        return np.array(["a.png", "b.png"], dtype=object)


def test_a_column_of_paths_is_refused_with_the_fix() -> None:
    with pytest.raises(DataError, match=r"make a list of its entries: images\.tolist\(\)"):
        as_image_set(Table())


def test_tensors_are_read_without_importing_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployed detector has no torch; what is passed may still have the form of a tensor."""

    class Tensor:
        def __array__(self, dtype: object = None, copy: object = None) -> npt.NDArray[Any]:
            return PIXELS

    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(as_image_set(Tensor()).image(0), PIXELS)
