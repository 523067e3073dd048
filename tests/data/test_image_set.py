"""Files and arrays become the same container: order, pixels, value range, joining."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    GREY8,
    levels,
    picture,
)

from oddlens.config.base import InputSpec
from oddlens.data.image_io import ImageInfo
from oddlens.data.image_set import ImageSet, concatenate, in_order
from oddlens.errors import DataError, ImageError, UnreadableImageError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


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


def decoders() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")}


def ended(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_no_decoder_is_left_behind_by_an_error_that_somebody_keeps(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i}.png", i) for i in range(40)]
    files[3].write_text("not an image")
    before = decoders()
    batches = ImageSet.from_files(files).batches(GREY8, 2)
    next(batches)
    started = decoders() - before
    with pytest.raises(ImageError) as kept:
        next(batches)
    assert started
    assert ended(started)
    assert kept.value.name == str(files[3])


def test_what_is_forgotten_may_be_ended_by_one_of_its_own_threads() -> None:
    """Garbage is collected by whichever thread comes to it, and no thread can wait for its own end."""
    suspended, outcome = threading.Event(), list[object]()

    def work(i: int) -> int:
        if i == 1:
            suspended.wait(10)
            try:
                results.close()
                outcome.append("ended")
            except RuntimeError as error:
                outcome.append(error)
        return i

    before = decoders()
    results = in_order(work, range(9), 2)
    assert next(results) == 0
    started = decoders() - before
    suspended.set()
    assert ended(started)
    assert outcome == ["ended"]


def test_batches_begin_anywhere_and_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i:02}.png", 10 + i) for i in range(40)]
    for i in (3, 17, 24, 25, 26, 27, 28, 29, 30, 31):
        files[i].write_text("not an image")
    problems: dict[int, UnreadableImageError] = {}
    batches, seen = ImageSet.from_files(files).batches(GREY8, 8, 8, problems), []
    for batch in batches:
        seen.append((batch[:, 4, 4, 0].tolist(), sorted(problems)))
        problems.clear()
    assert seen == [
        (list(range(18, 26)), []),
        ([26, *range(28, 34)], [17]),
        ([], list(range(24, 32))),
        (list(range(42, 50)), []),
    ]


def test_an_image_of_another_depth_is_never_left_out(tmp_path: Path) -> None:
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "deep.png", 5000, dtype=np.uint16)]
    with pytest.raises(ImageError, match=r"deep\.png: has 16 bits"):
        list(ImageSet.from_files(files).batches(GREY8, 8, 0, {}))


def test_giving_up_in_the_middle_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = decoders()
    batches = ImageSet.from_files([picture(tmp_path / f"{i}.png", i) for i in range(20)]).batches(GREY8, 2)
    next(batches)
    started = decoders() - before
    assert started
    batches.close()  # type: ignore[attr-defined]
    assert ended(started)


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
