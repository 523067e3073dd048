"""Folders, arrays and named sets become the same container, with the right pixels, labels and masks."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.config import InputSpec
from oddlens.datasets import DataSet, ImageSet, concatenate, named, open_dataset, open_images
from oddlens.datasets.cifar import BATCHES, CLASSES
from oddlens.datasets.named import fetch
from oddlens.errors import DataError, DataNotFoundError, ImageError, MissingExtraError
from oddlens.images import ImageInfo

Array = npt.NDArray[Any]

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
GREY8 = InputSpec(height=8, width=8, channels=1)


@pytest.fixture(autouse=True)
def no_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Keras's and our own cache, and any mirror, of the machine that runs the tests out of them."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("ODDLENS_MIRROR", raising=False)


def picture(path: Path, level: int = 100, size: tuple[int, int] = (8, 8), dtype: Any = np.uint8) -> Path:
    """A file with one grey image of size (height, width), all of one level but for its first pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, level, dtype=dtype)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, defect: tuple[slice, slice]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[defect] = 255
    Image.fromarray(pixels).save(path)


def mvtec(folder: Path) -> Path:
    """MVTec's layout: 3 to learn from, 2 good, 2 scratched with masks, 1 bent without."""
    for i in range(3):
        picture(folder / f"train/good/{i:03}.png", 100 + i)
    for i in range(2):
        picture(folder / f"test/good/{i:03}.png", 120 + i)
        picture(folder / f"test/scratch/{i:03}.png", 140 + i)
        mask(folder / f"ground_truth/scratch/{i:03}_mask.png", (slice(i, i + 2), slice(0, 5)))
    picture(folder / "test/bent/000.png", 160)
    (folder / "license.txt").write_text("CC")
    return folder


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_idx(folder: Path, packed: bool = False, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """The four files of MNIST with 20 and 10 images; every class is among them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for count in (20, 10):
        arrays += [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count).astype(np.uint8) % 10]
    for name, array in zip(IDX, arrays, strict=True):
        content = idx_bytes(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    return arrays[0], arrays[1], arrays[2], arrays[3]


def published_pickle(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """A CIFAR batch as it was pickled by Python 2 with protocol 2 and the module names of old NumPy."""
    rows, columns = data.shape
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        + (b"(K\x01" + shape + b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R")
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x89T" + struct.pack("<I", data.size) + data.tobytes() + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x01(U\x0bbatch_labelU\x0bof a test\n.U\x06labels" + numbers + b"U\x04data" + array + b"u."


def small_cifar(seed: int = 0, rows: int = 6) -> dict[str, tuple[npt.NDArray[np.uint8], list[int]]]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.integers(0, 256, (rows, 3072), dtype=np.uint8), rng.integers(0, 10, rows).tolist())
        for name in BATCHES
    }


def write_cifar(folder: Path, batches: dict[str, tuple[npt.NDArray[np.uint8], list[int]]], kind: str) -> Path:
    folder.mkdir(parents=True)
    for name, (data, labels) in batches.items():
        if kind == "binary":
            records = np.hstack([np.array(labels, dtype=np.uint8)[:, None], data])
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif kind == "published":
            (folder / name).write_bytes(published_pickle(data, labels))
        else:
            (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=int(kind)))
    return folder


def pixels_of(images: ImageSet) -> Array:
    return np.stack([images.image(i) for i in range(len(images))])


def levels(images: ImageSet) -> list[int]:
    """The grey level of each picture made by `picture`."""
    return [int(images.image(i)[1, 1, 0]) for i in range(len(images))]


# ImageSet


def test_an_array_becomes_a_set_without_being_copied() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images = ImageSet.from_array(array, name="train")
    assert images.names == ("train[0]", "train[1]", "train[2]", "train[3]", "train[4]")
    assert images.kinds == ("good",) * 5
    assert images.labels.tolist() == [0] * 5
    assert np.shares_memory(images.image(3), array)
    assert images.infos() == [ImageInfo(8, 8, 3, 8)] * 5


def test_a_subset_keeps_the_order_of_its_index(tmp_path: Path) -> None:
    files = ImageSet.from_files([picture(tmp_path / f"{i}.png", 10 * i) for i in range(1, 6)], kind=list("abcde"))
    array = ImageSet.from_array(
        np.arange(5, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2), kind=list("abcde")
    )
    for images in (files, array):
        chosen = images.subset(np.array([4, 0, 3]))
        assert chosen.kinds == ("e", "a", "d")
        assert chosen.names == tuple(images.names[i] for i in (4, 0, 3))
        assert images.subset(np.array([False, True, False, False, True])).kinds == ("b", "e")
        assert len(images.subset(np.array([]))) == 0
        np.testing.assert_array_equal(chosen.image(1), images.image(0))


def test_parts_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="one name, kind, label, image and mask an image"):
        ImageSet(("a",), ("good", "good"), np.zeros(1, dtype=np.int8), np.zeros((1, 4, 4, 1), np.uint8), (None,))


def test_batches_of_mixed_files_come_in_order_and_in_the_spec_s_form(tmp_path: Path) -> None:
    sizes = [(8, 8), (16, 12), (30, 50), (9, 7)] * 5
    files = [picture(tmp_path / f"{i:02}.png", 10 + i, size) for i, size in enumerate(sizes)]
    images = ImageSet.from_files(files)
    batches = list(images.batches(GREY8, 3))
    assert [len(batch) for batch in batches] == [3] * 6 + [2]
    whole = np.concatenate(batches)
    assert whole.dtype == np.uint8
    assert whole[:, 4, 4, 0].tolist() == list(range(10, 30))
    np.testing.assert_array_equal(whole, images.load(GREY8))
    assert {(info.height, info.width) for info in images.infos()} == set(sizes)


def test_an_array_of_the_spec_s_form_is_handed_out_in_slices(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    batches = list(ImageSet.from_array(array).batches(GREY8, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all(np.shares_memory(batch, array) for batch in batches)
    wide = ImageSet.from_array(array).load(InputSpec(height=4, width=16, channels=3))
    assert wide.shape == (10, 4, 16, 3)


def test_no_more_than_two_batches_are_read_ahead(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", i) for i in range(40)]
    batches = ImageSet.from_files(files).batches(GREY8, 4)
    next(batches)
    for path in files[12:]:  # had they been read by now, nobody would miss them
        path.unlink()
    next(batches)
    next(batches)
    with pytest.raises(ImageError) as raised:
        next(batches)
    assert raised.value.name == str(files[12])


def test_the_first_unreadable_image_ends_the_batches(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", i) for i in range(9)]
    files[3].write_bytes(files[3].read_bytes()[:60])
    files[5].write_text("not an image")
    batches = ImageSet.from_files(files).batches(GREY8, 2)
    assert len(next(batches)) == 2
    with pytest.raises(ImageError) as raised:
        next(batches)
    assert raised.value.name == str(files[3])


def test_giving_up_in_the_middle_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    batches = ImageSet.from_files([picture(tmp_path / f"{i}.png", i) for i in range(20)]).batches(GREY8, 2)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_readable_keeps_what_can_be_decoded_and_tells_of_the_rest(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", 50 + i) for i in range(5)]
    files[1].write_bytes(files[1].read_bytes()[:60])  # its header is whole
    files[4].write_text("not an image")
    kept, problems = ImageSet.from_files(files, kind=list("abcde")).readable()
    assert kept.kinds == ("a", "c", "d")
    assert levels(kept) == [50, 52, 53]
    assert [problem.name for problem in problems] == [str(files[1]), str(files[4])]


@pytest.mark.parametrize(("peak", "expected"), [(4000, 4095), (4095, 4095), (4096, 65535)])
def test_the_value_range_of_16_bit_files_comes_from_their_largest_value(
    tmp_path: Path, peak: int, expected: int
) -> None:
    files = [picture(tmp_path / f"{i}.png", 50, dtype=np.uint16) for i in range(3)]
    files.append(picture(tmp_path / "peak.png", peak, dtype=np.uint16))
    spec = ImageSet.from_files(files).choose_spec(None)
    assert (spec.value_max, spec.channels, spec.height, spec.width) == (expected, 1, 8, 8)
    array = ImageSet.from_files(files).load(spec)
    assert array.dtype == np.uint16
    assert array.max() == peak
    assert ImageSet.from_array(array).choose_spec(None) == spec


def test_a_spec_of_nothing_or_of_mixed_depths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        ImageSet.from_files([]).choose_spec(None)
    mixed = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 5000, dtype=np.uint16)]
    with pytest.raises(DataError, match="1 images have 8 bits and 1 have 16"):
        ImageSet.from_files(mixed).choose_spec(None)


def test_arrays_of_one_form_stay_one_array_when_joined(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    normal, odd = ImageSet.from_array(array), ImageSet.from_array(255 - array, name="odd", kind="inverted", label=1)
    both = concatenate([normal, odd])
    assert isinstance(both.images, np.ndarray)
    np.testing.assert_array_equal(both.images, np.concatenate([array, 255 - array]))
    assert both.labels.tolist() == [0] * 4 + [1] * 4
    assert both.labels.dtype == np.int8
    assert both.kinds == ("good",) * 4 + ("inverted",) * 4
    assert both.names[4] == "odd[0]"


def test_files_and_arrays_of_other_sizes_can_be_joined_too(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (2, 12, 6, 3), dtype=np.uint8)
    both = concatenate([ImageSet.from_files([picture(tmp_path / "a.png", 70)]), ImageSet.from_array(array)])
    assert [both.image(i).shape for i in range(3)] == [(8, 8, 1), (12, 6, 3), (12, 6, 3)]
    assert both.load(GREY8).shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(both.subset(np.array([2])).image(0), array[1])
    assert both.infos()[1] == ImageInfo(12, 6, 3, 8)
    assert len(concatenate([])) == 0


# Folders


def test_mvtec_s_layout_is_labelled_and_masks_are_paired(tmp_path: Path) -> None:
    data = open_dataset(mvtec(tmp_path / "carpet"))
    assert (data.name, data.normal) == ("carpet", "good")
    assert levels(data.train) == [100, 101, 102]
    assert data.train.labels.tolist() == [0, 0, 0]
    assert data.test.kinds == ("bent", "good", "good", "scratch", "scratch")
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]
    assert levels(data.test) == [160, 120, 121, 140, 141]
    assert [data.test.mask(i) is None for i in range(5)] == [True, True, True, False, False]
    for i in (0, 1):
        expected = np.zeros((8, 8), dtype=bool)
        expected[i : i + 2, :5] = True
        np.testing.assert_array_equal(data.test.mask(3 + i), expected)


def test_a_mask_may_have_another_suffix_than_its_image_and_lie_deeper(tmp_path: Path) -> None:
    picture(tmp_path / "train/good/0.png")
    picture(tmp_path / "test/cut/left/0.jpg")
    picture(tmp_path / "test/cut/right/0.jpg")
    mask(tmp_path / "ground_truth/cut/right/0_mask.bmp", (slice(0, 1), slice(0, 1)))
    test = open_dataset(tmp_path).test
    assert test.mask(0) is None
    marked = test.mask(1)
    assert marked is not None
    assert marked.sum() == 1


def test_a_folder_with_a_test_part_only_has_nothing_to_learn_from(tmp_path: Path) -> None:
    folder = mvtec(tmp_path)
    (folder / "train").rename(tmp_path.parent / "elsewhere")
    data = open_dataset(folder)
    assert len(data.train) == 0
    assert data.normal == "good"
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]


def test_class_folders_in_train_and_test_are_labelled_by_the_normal_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i, kind in enumerate(("cat", "dog", "ship")):
            picture(tmp_path / part / kind / "a.png", 10 * i + (part == "test"))
    data = open_dataset(tmp_path, normal="dog")
    assert (data.normal, levels(data.train), data.train.kinds) == ("dog", [10], ("dog",))
    assert data.test.kinds == ("cat", "dog", "ship")
    assert data.test.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"did you mean 'dog'\? the classes are: cat, dog, ship$"):
        open_dataset(tmp_path, normal="dgo")
    with pytest.raises(DataError, match=r"has no class 'good'; say which one is normal, of: cat, dog, ship$"):
        open_dataset(tmp_path)


def test_the_only_class_to_learn_from_is_the_normal_one(tmp_path: Path) -> None:
    for path in ("train/intact", "test/intact", "test/broken"):
        picture(tmp_path / path / "a.png")
    data = open_dataset(tmp_path)
    assert data.normal == "intact"
    assert dict(zip(data.test.kinds, data.test.labels.tolist(), strict=True)) == {"broken": 1, "intact": 0}
    (tmp_path / "test/intact").rename(tmp_path / "test/good")
    with pytest.raises(DataError, match="train: has no class 'good'"):  # is "intact" the same as "good"?
        open_dataset(tmp_path)


def test_training_images_may_lie_flat_beside_a_labelled_test_part(tmp_path: Path) -> None:
    for path in ("train/a.png", "train/b.png", "test/good/c.png", "test/bad/d.png"):
        picture(tmp_path / path)
    data = open_dataset(tmp_path)
    assert (len(data.train), data.normal, data.test.labels.tolist()) == (2, "good", [1, 0])
    picture(tmp_path / "test/loose.png")
    with pytest.raises(DataError, match=r"loose\.png: lies outside the class folders"):
        open_dataset(tmp_path)


def test_a_class_folder_is_learnt_from_and_all_are_tested(tmp_path: Path) -> None:
    for i, kind in enumerate(("apple", "pear", "plum")):
        picture(tmp_path / kind / "1.png", i)
        picture(tmp_path / kind / "2.png", 10 + i)
    data = open_dataset(tmp_path, normal="pear")
    assert levels(data.train) == [1, 11]
    assert data.test.kinds == ("apple", "apple", "pear", "pear", "plum", "plum")
    assert data.test.labels.tolist() == [1, 1, 0, 0, 1, 1]


def test_a_folder_called_good_beside_others_is_the_normal_class(tmp_path: Path) -> None:
    for kind in ("good", "scratched"):
        picture(tmp_path / kind / "1.png")
    data = open_dataset(tmp_path)
    assert (data.normal, len(data.train), data.test.labels.tolist()) == ("good", 1, [0, 1])
    picture(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png: lies outside"):
        open_dataset(tmp_path)


def test_in_a_folder_without_known_classes_everything_is_normal(tmp_path: Path) -> None:
    for path in ("monday/line 2/b.png", "tuesday/c.TIFF", "a.JPG"):
        picture(tmp_path / path)
    data = open_dataset(tmp_path)
    assert data.train.names == tuple(
        f"{tmp_path}/{name}" for name in ("a.JPG", "monday/line 2/b.png", "tuesday/c.TIFF")
    )
    assert (len(data.test), data.normal) == (0, "good")


def test_layouts_that_would_teach_defects_as_normal_are_refused(tmp_path: Path) -> None:
    mvtec(tmp_path / "sets/carpet")
    mvtec(tmp_path / "sets/leather")
    with pytest.raises(DataError, match=r"folder of data sets; name one of them: carpet, leather$"):
        open_dataset(tmp_path / "sets")
    picture(tmp_path / "capital/Train/good/a.png")
    with pytest.raises(DataError, match="has 'Train' but neither 'train' nor 'test'"):
        open_dataset(tmp_path / "capital")
    mask(tmp_path / "masked/ground_truth/a_mask.png", (slice(0, 1), slice(0, 1)))
    picture(tmp_path / "masked/a.png")
    with pytest.raises(DataError, match="has 'ground_truth' but neither"):
        open_dataset(tmp_path / "masked")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "._b.png")
    picture(tmp_path / ".cache/c.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "d.png.bak"):
        (tmp_path / name).write_text("?")
    (tmp_path / "e.png").mkdir()  # a folder, whatever its name
    assert open_images([tmp_path]).names == (f"{tmp_path}/a.png",)


def test_a_folder_without_images_and_a_missing_path_say_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for open_it in (open_dataset, lambda path: open_images([path])):
        with pytest.raises(
            DataNotFoundError, match=r"empty: holds no images; put some there \(\.bmp, \.jpeg, .*\.webp\)"
        ):
            open_it(tmp_path / "empty")
        with pytest.raises(DataNotFoundError, match=r"nowhere: is "):
            open_it(tmp_path / "nowhere")
    (tmp_path / "empty/train/good").mkdir(parents=True)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(DataNotFoundError, match="train/good: holds no images"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataNotFoundError, match="no image was named"):
        open_images([])


def test_images_to_score_keep_the_order_given_and_folders_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.png", "img9.png", "sub/img1.png"):
        picture(tmp_path / "lot" / name)
    single = picture(tmp_path / "z.png")
    images = open_images([single, str(tmp_path / "lot"), single])
    names = (single, tmp_path / "lot/img9.png", tmp_path / "lot/img10.png", tmp_path / "lot/sub/img1.png", single)
    assert images.names == tuple(map(str, names))
    assert set(images.kinds) == {""}
    assert images.labels.tolist() == [0] * 5


def test_names_are_the_paths_as_the_user_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "lot/a.png")
    monkeypatch.chdir(tmp_path)
    for source, name in (("lot", "lot/a.png"), ("./lot/", "./lot/a.png"), ("lot/../lot", "lot/../lot/a.png")):
        assert open_images([source]).names == (name,)
        assert open_dataset(source).train.names == (name,)
    assert open_images(["./lot/a.png"]).names == ("./lot/a.png",)
    (tmp_path / "lot/a.png").write_text("damaged")
    with pytest.raises(ImageError, match=r"^\./lot/a\.png: is not a PNG"):
        open_images(["./lot"]).image(0)


def test_links_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    picture(tmp_path / "lot/deep/a.png")
    (tmp_path / "lot/deep/back").symlink_to(tmp_path / "lot")
    (tmp_path / "lot/self").symlink_to("self")
    (tmp_path / "lot/again").symlink_to(tmp_path / "lot/deep")
    (tmp_path / "lot/b.png").symlink_to(picture(tmp_path / "kept elsewhere.png"))
    assert open_images([tmp_path / "lot"]).names == (f"{tmp_path}/lot/b.png", f"{tmp_path}/lot/deep/a.png")


def test_a_link_to_nothing_is_reported_and_not_dropped(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    _, problems = open_images([tmp_path]).readable()
    assert [problem.name for problem in problems] == [str(tmp_path / "b.png")]


# Arrays in files


def test_a_file_of_one_array_is_all_normal(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 4096, (6, 9, 7), dtype=np.uint16)
    np.save(tmp_path / "parts.npy", array)
    np.savez_compressed(tmp_path / "parts.npz", anything=array)
    for name in ("parts.npy", "parts.npz"):
        data = open_dataset(str(tmp_path / name))
        np.testing.assert_array_equal(pixels_of(data.train), array[..., None])
        assert data.train.names[5] == f"{tmp_path / name}[5]"
        assert (data.name, data.normal, len(data.test)) == ("parts", "good", 0)
        assert data.train.choose_spec(None).value_max == 4095
        with pytest.raises(DataError, match="has no classes"):
            open_dataset(str(tmp_path / name), normal="3")


def test_keras_s_layout_is_read_from_any_npz_file(tmp_path: Path, rng: np.random.Generator) -> None:
    x_train, x_test = (rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (12, 4))
    y_train, y_test = np.arange(12)[:, None] % 3, np.array([2, 0, 1, 2])
    np.savez(tmp_path / "mine.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset(str(tmp_path / "mine.npz"), normal="2")
    np.testing.assert_array_equal(pixels_of(data.train), x_train[2::3][..., None])
    assert data.train.names == ("train[2]", "train[5]", "train[8]", "train[11]")
    assert data.test.kinds == ("2", "0", "1", "2")
    assert data.test.labels.tolist() == [0, 1, 1, 0]


def test_arrays_that_are_no_images_or_do_not_match_are_refused(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(DataError, match=r"holds the arrays a, b; save one array of images, or x_train"):
        open_dataset(tmp_path / "two.npz")
    np.savez(tmp_path / "short.npz", x_train=images, y_train=np.zeros(3, int), x_test=images, y_test=np.zeros(4, int))
    with pytest.raises(DataError, match=r"labels of shape \(3,\) and type int64 for images of shape \(4, 8, 8\)"):
        open_dataset(tmp_path / "short.npz")
    np.save(tmp_path / "first.npy", np.zeros((4, 3, 8, 8), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"first\.npy: .*channels come last"):
        open_dataset(tmp_path / "first.npy")


# Named sets


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", ""])
def test_mnist_is_found_where_torchvision_keeps_it(tmp_path: Path, place: str, packed: bool) -> None:
    x_train, _, x_test, _ = small_idx(tmp_path / "data" / place, packed)
    data = open_dataset("mnist", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(data.train.images, x_train[..., None])
    np.testing.assert_array_equal(data.test.images, x_test[..., None])
    assert data.train.kinds == tuple("01234567890123456789")
    assert (data.name, data.normal, data.test.labels.sum()) == ("mnist", "all", 0)
    one = open_dataset("mnist", normal="3", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(pixels_of(one.train), x_train[[3, 13]][..., None])
    assert one.train.names == ("train[3]", "train[13]")
    assert one.test.labels.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_the_sets_of_the_mnist_family_are_not_taken_for_each_other(tmp_path: Path) -> None:
    fashion, kuzushiji = small_idx(tmp_path / "FashionMNIST/raw", seed=1), small_idx(tmp_path / "KMNIST/raw", seed=2)
    data = open_dataset("fashion-mnist", normal="ankle boot", data_dir=tmp_path)
    np.testing.assert_array_equal(pixels_of(data.train), fashion[0][[9, 19]][..., None])
    assert data.test.kinds[:2] == ("t-shirt/top", "trouser")
    data = open_dataset("kmnist", normal="tsu", data_dir=tmp_path / "KMNIST/raw")
    np.testing.assert_array_equal(pixels_of(data.train), kuzushiji[0][[3, 13]][..., None])
    assert named._find_idx("mnist", tmp_path / "KMNIST/raw") == []
    assert named._find_idx("fashion-mnist", tmp_path / "KMNIST") == []


@pytest.mark.parametrize("home", ["data", "keras/datasets"])
def test_mnist_is_found_where_keras_keeps_it(tmp_path: Path, home: str) -> None:
    x_train, y_train, x_test, y_test = small_idx(tmp_path / "unused")
    (tmp_path / home).mkdir(parents=True)
    np.savez(tmp_path / home / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset("mnist", normal="0", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(pixels_of(data.train), x_train[[0, 10]][..., None])
    assert data.test.labels.tolist() == [0] + [1] * 9


def test_the_environment_names_the_data_folder_and_data_dir_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = small_idx(tmp_path / "first/MNIST/raw", seed=1), small_idx(tmp_path / "second/MNIST/raw", seed=2)
    monkeypatch.setenv("ODDLENS_DATA", str(tmp_path / "first"))
    np.testing.assert_array_equal(open_dataset("mnist").train.images, first[0][..., None])
    data = open_dataset("mnist", data_dir=tmp_path / "second")
    np.testing.assert_array_equal(data.train.images, second[0][..., None])


@pytest.mark.parametrize("kind", ["binary", "published", "3", "4", "5"])
def test_cifar_s_layouts_give_equal_pixels_and_labels(tmp_path: Path, kind: str) -> None:
    batches = small_cifar()
    folder = "cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py"
    write_cifar(tmp_path / folder, batches, kind)
    data = open_dataset("cifar10", data_dir=tmp_path)
    rows = np.concatenate([batches[name][0] for name in BATCHES[:5]])
    np.testing.assert_array_equal(data.train.images, np.moveaxis(rows.reshape(-1, 3, 32, 32), 1, -1))
    labels = [label for name in BATCHES[:5] for label in batches[name][1]]
    assert data.train.kinds == tuple(CLASSES[label] for label in labels)
    assert isinstance(data.test.images, np.ndarray)
    assert data.test.images[4, 2, 5].tolist() == [int(batches["test_batch"][0][4, 69 + 1024 * c]) for c in range(3)]
    normal = data.train.kinds[7]
    chosen = open_dataset("cifar10", normal=normal, data_dir=tmp_path / folder)  # the folder itself is taken, too
    assert set(chosen.train.kinds) == {normal}
    assert chosen.test.labels.tolist() == [int(kind != normal) for kind in chosen.test.kinds]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_the_pickle_made_by_hand_for_these_tests_is_one() -> None:
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    batch = pickle.loads(published_pickle(data, [7, 0, 9]), encoding="latin1")
    np.testing.assert_array_equal(batch["data"], data)
    assert batch["labels"] == [7, 0, 9]


@pytest.mark.parametrize("kind", ["binary", "published"])
def test_cifar_is_read_from_its_archive_without_unpacking_it(tmp_path: Path, kind: str) -> None:
    batches = small_cifar()
    inside = "cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py"
    folder = write_cifar(tmp_path / "made" / inside, batches, kind)
    (folder / "readme.html").write_text("<html>")
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / f"cifar-10-{'binary' if kind == 'binary' else 'python'}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, inside)
    data = open_dataset("cifar10", data_dir=tmp_path / "data")
    expected = open_dataset("cifar10", data_dir=tmp_path / "made")
    np.testing.assert_array_equal(data.train.images, expected.train.images)
    assert data.test.kinds == expected.test.kinds
    assert list((tmp_path / "data").iterdir()) == [archive]


def test_digits_are_split_in_the_same_way_every_time_and_twins_stay_together(digits: DataSet) -> None:
    again = open_dataset("digits")
    np.testing.assert_array_equal(digits.train.images, again.train.images)
    assert (len(digits.train), len(digits.test)) == (1300, 497)
    assert isinstance(digits.train.images, np.ndarray)
    assert digits.train.images.shape == (1300, 8, 8, 1)
    assert set(np.unique(digits.train.images)) == {round(level * 255 / 16) for level in range(17)}
    assert digits.normal == "all"
    assert set(digits.train.kinds) == set("0123456789") == set(digits.test.kinds)
    three = open_dataset("digits", normal="3")
    assert set(three.train.kinds) == {"3"}
    assert three.test.labels.tolist() == [int(kind != "3") for kind in digits.test.kinds]


def test_tiles_are_labelled_and_every_defect_has_its_mask() -> None:
    tiles = open_dataset("tiles")
    assert tiles.normal == "good"
    assert set(tiles.train.kinds) == {"good"}
    assert len(set(tiles.test.kinds)) == 6
    for i, kind in enumerate(tiles.test.kinds):
        marked = tiles.test.mask(i)
        assert tiles.test.labels[i] == (kind != "good") == (marked is not None)
        if marked is not None:
            assert marked.any()
            assert marked.shape == tiles.test.image(i).shape[:2]
    with pytest.raises(DataError, match=r"the classes are: good$"):
        open_dataset("tiles", normal="scratch")


def test_a_name_is_a_folder_only_where_it_is_written_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "digits/a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("digits").train) == 1300
    assert len(open_dataset("./digits").train) == 1
    assert len(open_dataset(Path("digits")).train) == 1
    monkeypatch.chdir(tmp_path.parent)
    assert len(open_dataset(Path("digits")).train) == 1300


def test_unknown_names_and_classes_are_answered_with_the_nearest_one(tmp_path: Path) -> None:
    small_idx(tmp_path / "MNIST/raw")
    with pytest.raises(DataNotFoundError, match="is no folder, file or known data set; did you mean 'fashion-mnist'"):
        open_dataset("fashionmnist")
    with pytest.raises(DataNotFoundError, match="name one of: digits, tiles, mnist, fashion-mnist, kmnist, cifar10"):
        open_dataset("parts/of/tuesday")
    with pytest.raises(DataError, match=r"mnist: has no class 'three'; the classes are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        open_dataset("mnist", normal="three", data_dir=tmp_path)
    with pytest.raises(DataError, match="is one file; give a folder of images"):
        open_dataset(picture(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        open_dataset("x" * 5000)


# Downloads, from servers on this machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /cut/ announces more than it sends."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        else:
            super().do_GET()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_set_that_is_missing_is_downloaded_once_from_the_mirror(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = mirror
    x_train, *_ = small_idx(served / "mnist", packed=True)
    files = {f"{name}.gz": hashlib.md5((served / "mnist" / f"{name}.gz").read_bytes()).hexdigest() for name in IDX}
    monkeypatch.setitem(named.SETS, "mnist", dataclasses.replace(named.SETS["mnist"], files=files))
    monkeypatch.setenv("ODDLENS_MIRROR", f"{address}/")
    monkeypatch.delenv("ODDLENS_DATA", raising=False)
    np.testing.assert_array_equal(open_dataset("mnist").train.images, x_train[..., None])
    kept = tmp_path / "cache/oddlens/MNIST/raw"
    assert sorted(path.name for path in kept.iterdir()) == sorted(files)
    for name in files:
        (served / "mnist" / name).unlink()
    assert len(open_dataset("mnist").test) == 10


def test_a_file_appears_only_when_it_is_whole_and_the_published_one(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    served, address = mirror
    (served / "a.gz").write_bytes(b"hello")
    path = fetch(f"{address}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "data")
    assert path == tmp_path / "data/a.gz"
    assert path.read_bytes() == b"hello"
    path.unlink()
    with pytest.raises(DataError, match=r"is not the published file \(its MD5 sum is not 0000"):
        fetch(f"{address}/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch(f"{address}/cut/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(
        DataNotFoundError,
        match=r"cannot be downloaded \(404 .*not found",
    ):
        fetch(f"{address}/b.gz", "0" * 32, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(DataNotFoundError, match=r"http://127\.0\.0\.1:\d+/a\.gz "):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.gz", "0" * 32, tmp_path, patience=0.2)
    assert not any(tmp_path.glob("*.gz"))


@pytest.mark.parametrize(
    ("name", "wanted"), [("mnist", "MNIST/raw: train-images-idx3-ubyte, "), ("cifar10", "cifar-10-batches-py")]
)
def test_without_data_and_network_the_error_names_folder_files_and_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("ODDLENS_MIRROR", f"http://127.0.0.1:{port}")
    with pytest.raises(DataNotFoundError) as raised:
        open_dataset(name, data_dir=tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    for part in (f"{name}: is not below {tmp_path / 'data'}", wanted, "Connection refused", "--data", "oddlens demo"):
        assert part in message


def test_an_address_that_is_none_and_a_folder_that_cannot_be_are_reported(
    tmp_path: Path, mirror: tuple[Path, str]
) -> None:
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch("mirror.example/a.gz", "0" * 32, tmp_path)
    (mirror[0] / "a.gz").write_bytes(b"hello")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written to"):
        fetch(f"{mirror[1]}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "file")


def test_downloading_without_pooch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[train\]"):
        open_dataset("mnist", data_dir=tmp_path)


# Real data


def test_real_cifar_is_the_same_in_both_layouts_and_as_files(real_data: Path, tmp_path: Path) -> None:
    binary = open_dataset("cifar10", data_dir=real_data / "cifar-10-batches-bin")
    pickled = open_dataset("cifar10", data_dir=real_data / "cifar-10-batches-py")
    for one, other in ((binary.train, pickled.train), (binary.test, pickled.test)):
        np.testing.assert_array_equal(one.images, other.images)
        assert one.kinds == other.kinds
    assert (len(binary.train), len(binary.test)) == (50_000, 10_000)
    for i in range(300):
        file = tmp_path / "train" / binary.test.kinds[i] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(binary.test.image(i)).save(file)
    files = open_dataset(tmp_path, normal="airplane").train
    spec = files.choose_spec(None)
    assert (spec.height, spec.width, spec.channels) == (32, 32, 3)
    planes = binary.test.subset(np.flatnonzero(np.array(binary.test.kinds[:300]) == "airplane"))
    np.testing.assert_array_equal(files.load(spec), planes.images)


def test_real_mnist_has_its_published_counts(real_data: Path) -> None:
    data = open_dataset("mnist", normal="1", data_dir=real_data)
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (6742, 10_000, 8865)
    assert isinstance(data.test.images, np.ndarray)
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_real_magnetic_tiles_pair_every_defect_with_a_mask_of_its_size(real_data: Path) -> None:
    data = open_dataset(real_data / "magnetic-tile")
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (663, 504, 293)
    infos = data.test.infos()
    for i in np.flatnonzero(data.test.labels)[::7].tolist():
        marked = data.test.mask(i)
        assert marked is not None
        assert marked.shape == (infos[i].height, infos[i].width)
    dev = open_dataset(os.fspath(real_data / "magnetic-tile-dev"))
    assert (len(dev.train), len(dev.test), dev.normal) == (0, 177, "good")
