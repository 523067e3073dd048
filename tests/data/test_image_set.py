"""`ImageSet` handles files and arrays alike: order, pixels, value range, concatenation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    GREY8,
    grey_levels,
    write_image,
)
from thread_pools import have_ended, pool_threads

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet, concatenate
from oddlens.errors import DataError, ImageError, UnreadableImageError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


def test_an_array_becomes_an_image_set_without_a_copy() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images = ImageSet.from_array(array, name="train")
    assert images.names == ("train[0]", "train[1]", "train[2]", "train[3]", "train[4]")
    assert images.kinds == ("good",) * 5
    assert images.labels.tolist() == [0] * 5
    assert np.shares_memory(images.image(3), array)
    assert images.infos() == [ImageInfo(8, 8, 3, 8)] * 5


def test_a_subset_keeps_the_order_of_its_index(tmp_path: Path) -> None:
    files = ImageSet.from_files([write_image(tmp_path / f"{i}.png", 10 * i) for i in range(1, 6)], kind=list("abcde"))
    array = ImageSet.from_array(
        np.arange(5, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2), kind=list("abcde")
    )
    for images in (files, array):
        subset = images.subset(np.array([4, 0, 3]))
        assert subset.kinds == ("e", "a", "d")
        assert subset.names == tuple(images.names[i] for i in (4, 0, 3))
        assert images.subset(np.array([False, True, False, False, True])).kinds == ("b", "e")
        assert len(images.subset(np.array([]))) == 0
        np.testing.assert_array_equal(subset.image(1), images.image(0))


def test_fields_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="one name, kind, label, image and mask per image"):
        ImageSet(("a",), ("good", "good"), np.zeros(1, dtype=np.int8), np.zeros((1, 4, 4, 1), np.uint8), (None,))


def test_batches_of_mixed_files_are_in_order_and_match_the_spec(tmp_path: Path) -> None:
    sizes = [(8, 8), (16, 12), (30, 50), (9, 7)] * 5
    files = [write_image(tmp_path / f"{i:02}.png", 10 + i, size) for i, size in enumerate(sizes)]
    images = ImageSet.from_files(files)
    batches = list(images.batches(GREY8, 3))
    assert [len(batch) for batch in batches] == [3] * 6 + [2]
    whole = np.concatenate(batches)
    assert whole.dtype == np.uint8
    assert whole[:, 4, 4, 0].tolist() == list(range(10, 30))
    np.testing.assert_array_equal(whole, images.load(GREY8))
    assert {(info.height, info.width) for info in images.infos()} == set(sizes)


def test_each_image_is_handed_over_at_its_own_size_when_it_was_decoded(tmp_path: Path) -> None:
    sizes = [(8, 8), (16, 12), (30, 50), (9, 7)] * 5
    images = ImageSet.from_files([write_image(tmp_path / f"{i:02}.png", 10 + i, size) for i, size in enumerate(sizes)])
    (tmp_path / "07.png").write_bytes(b"broken")
    received, problems = dict[int, Pixels](), dict[int, UnreadableImageError]()
    for _ in images.batches(GREY8, 3, start=2, problems=problems, on_image=received.__setitem__):
        pass
    assert sorted(received) == [i for i in range(2, 20) if i != 7]
    for i, image in received.items():
        np.testing.assert_array_equal(image, images.image(i))


def test_batches_of_an_array_that_matches_the_spec_are_slices(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    batches = list(ImageSet.from_array(array).batches(GREY8, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all(np.shares_memory(batch, array) for batch in batches)
    wide = ImageSet.from_array(array).load(InputSpec(height=4, width=16, channels=3))
    assert wide.shape == (10, 4, 16, 3)


def test_no_more_than_two_batches_are_read_ahead(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", i) for i in range(40)]
    batches = ImageSet.from_files(files).batches(GREY8, 4)
    next(batches)
    for path in files[12:]:  # deleting files that have been read already would raise no error
        path.unlink()
    next(batches)
    next(batches)
    with pytest.raises(ImageError) as raised:
        next(batches)
    assert raised.value.name == str(files[12])


def test_the_first_unreadable_image_ends_the_batches(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", i) for i in range(9)]
    files[3].write_bytes(files[3].read_bytes()[:60])
    files[5].write_text("not an image")
    batches = ImageSet.from_files(files).batches(GREY8, 2)
    assert len(next(batches)) == 2
    with pytest.raises(ImageError) as raised:
        next(batches)
    assert raised.value.name == str(files[3])


def test_decoder_threads_end_even_if_the_error_is_stored(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", i) for i in range(40)]
    files[3].write_text("not an image")
    before = pool_threads()
    batches = ImageSet.from_files(files).batches(GREY8, 2)
    next(batches)
    started = pool_threads() - before
    with pytest.raises(ImageError) as raised:
        next(batches)
    assert started
    assert have_ended(started)
    assert raised.value.name == str(files[3])


def test_batches_start_anywhere_and_skip_unreadable_images(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i:02}.png", 10 + i) for i in range(40)]
    for i in (3, 17, 24, 25, 26, 27, 28, 29, 30, 31):
        files[i].write_text("not an image")
    problems: dict[int, UnreadableImageError] = {}
    batches, results = ImageSet.from_files(files).batches(GREY8, 8, 8, problems), []
    for batch in batches:
        results.append((batch[:, 4, 4, 0].tolist(), sorted(problems)))
        problems.clear()
    assert results == [
        (list(range(18, 26)), []),
        ([26, *range(28, 34)], [17]),
        ([], list(range(24, 32))),
        (list(range(42, 50)), []),
    ]


def test_an_image_of_a_different_depth_is_never_skipped(tmp_path: Path) -> None:
    files = [write_image(tmp_path / "a.png"), write_image(tmp_path / "deep.png", 5000, dtype=np.uint16)]
    with pytest.raises(ImageError, match=r"deep\.png: has 16 bits"):
        list(ImageSet.from_files(files).batches(GREY8, 8, 0, {}))


def test_closing_unfinished_batches_leaves_no_thread(tmp_path: Path) -> None:
    before = pool_threads()
    batches = ImageSet.from_files([write_image(tmp_path / f"{i}.png", i) for i in range(20)]).batches(GREY8, 2)
    next(batches)
    started = pool_threads() - before
    assert started
    batches.close()  # type: ignore[attr-defined]
    assert have_ended(started)


def test_readable_returns_decodable_images_and_the_errors_of_the_others(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", 50 + i) for i in range(5)]
    files[1].write_bytes(files[1].read_bytes()[:60])  # only its header is complete
    files[4].write_text("not an image")
    readable, problems = ImageSet.from_files(files, kind=list("abcde")).readable()
    assert readable.kinds == ("a", "c", "d")
    assert grey_levels(readable) == [50, 52, 53]
    assert [problem.name for problem in problems] == [str(files[1]), str(files[4])]


@pytest.mark.parametrize(("peak", "expected"), [(4000, 4095), (4095, 4095), (4096, 65535)])
def test_the_value_range_of_16_bit_files_is_derived_from_their_maximum(
    tmp_path: Path, peak: int, expected: int
) -> None:
    files = [write_image(tmp_path / f"{i}.png", 50, dtype=np.uint16) for i in range(3)]
    files.append(write_image(tmp_path / "peak.png", peak, dtype=np.uint16))
    spec = ImageSet.from_files(files).choose_spec(None)
    assert (spec.value_max, spec.channels, spec.height, spec.width) == (expected, 1, 8, 8)
    array = ImageSet.from_files(files).load(spec)
    assert array.dtype == np.uint16
    assert array.max() == peak
    assert ImageSet.from_array(array).choose_spec(None) == spec


def test_choosing_a_spec_for_no_images_or_mixed_depths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        ImageSet.from_files([]).choose_spec(None)
    mixed = [write_image(tmp_path / "a.png"), write_image(tmp_path / "b.png", 5000, dtype=np.uint16)]
    with pytest.raises(DataError, match="1 images have 8 bits and 1 have 16"):
        ImageSet.from_files(mixed).choose_spec(None)


def test_concatenated_arrays_of_one_shape_are_one_array(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    normal = ImageSet.from_array(array)
    inverted = ImageSet.from_array(255 - array, name="inverted", kind="inverted", label=1)
    both = concatenate([normal, inverted])
    assert isinstance(both.images, np.ndarray)
    np.testing.assert_array_equal(both.images, np.concatenate([array, 255 - array]))
    assert both.labels.tolist() == [0] * 4 + [1] * 4
    assert both.labels.dtype == np.int8
    assert both.kinds == ("good",) * 4 + ("inverted",) * 4
    assert both.names[4] == "inverted[0]"


def test_files_and_arrays_of_different_sizes_can_be_concatenated(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (2, 12, 6, 3), dtype=np.uint8)
    both = concatenate([ImageSet.from_files([write_image(tmp_path / "a.png", 70)]), ImageSet.from_array(array)])
    assert [both.image(i).shape for i in range(3)] == [(8, 8, 1), (12, 6, 3), (12, 6, 3)]
    assert both.load(GREY8).shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(both.subset(np.array([2])).image(0), array[1])
    assert both.infos()[1] == ImageInfo(12, 6, 3, 8)
    assert len(concatenate([])) == 0
