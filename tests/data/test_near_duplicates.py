"""Near-duplicates are found without chaining, and splits never divide a group."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.open import open_dataset
from oddlens.data.splitting import split_groups
from oddlens.errors import DataError

Picture = npt.NDArray[np.float64]


def pictures(count: int, seed: int, side: int = 64) -> list[Picture]:
    """Soft random pictures in 0..1 that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 8, 8)).astype(np.float32)
    return [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR)) for one in coarse]


def exposed(picture: Picture, gain: float, rng: np.random.Generator) -> Pixels:
    """A photograph of a picture: darker or brighter, with some noise of the sensor."""
    values = 40 + 150 * gain * picture + rng.normal(0, 3, picture.shape)
    return np.clip(values, 0, 255).astype(np.uint8)[..., None]


# Thumbnails


def test_a_thumbnail_is_the_mean_of_each_cell_centred_and_of_unit_length() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 1), dtype=np.uint8)
    cells = image.reshape(16, 2, 16, 3).mean(axis=(1, 3)).ravel()
    cells -= cells.mean()
    np.testing.assert_allclose(thumbnails([image])[0], cells / np.linalg.norm(cells), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (17, 100), (333, 41)])
def test_cells_that_divide_no_pixel_evenly_still_weigh_all_pixels_alike(shape: tuple[int, int]) -> None:
    # A ramp's cell means are the ramp at the cells' centres, whatever the number of pixels.
    ramp = np.linspace(0, 60000, shape[1]).astype(np.uint16)
    row = thumbnails([np.broadcast_to(ramp[None, :, None], (*shape, 1))])[0].reshape(16, 16)
    np.testing.assert_allclose(row, row[:1].repeat(16, axis=0), atol=1e-6)
    assert (np.diff(row[0]) >= 0).all()
    np.testing.assert_allclose(row[0], -row[0][::-1], atol=1e-3)


def test_size_brightness_contrast_and_depth_do_not_change_a_thumbnail() -> None:
    small = (pictures(1, seed=1, side=32)[0] * 100).astype(np.uint8)[..., None]
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    deep = small.astype(np.uint16) * 300 + 20
    colour = small.repeat(3, axis=2)
    rows = thumbnails([small, large, deep, small * 2 + 30, colour])
    np.testing.assert_allclose(rows @ rows.T, 1, atol=1e-4)


def test_flat_images_are_alike_and_like_no_picture() -> None:
    flat = [np.full((20, 30, 1), level, dtype=np.uint8) for level in (0, 7, 255)]
    rows = thumbnails([*flat, (pictures(1, seed=2)[0] * 255).astype(np.uint8)[..., None]])
    np.testing.assert_allclose(rows[:3] @ rows[:3].T, 1, atol=1e-6)
    np.testing.assert_allclose(rows[:3] @ rows[3], 0, atol=1e-6)


# Groups


def test_thumbnails_of_an_array_are_those_of_its_images_one_by_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 20, 28, 3), dtype=np.uint8)
    images[70] = 9  # a flat one among them
    np.testing.assert_array_equal(thumbnails(images), thumbnails(iter(images)))
    assert thumbnails(images[:0]).shape == (0, 256)


def test_exposures_of_one_part_are_one_group_and_different_parts_are_not() -> None:
    rng = np.random.default_rng(3)
    parts = pictures(30, seed=3)
    images = [exposed(part, gain, rng) for part in parts for gain in (0.4, 0.7, 1.0)]
    groups = near_duplicate_groups(thumbnails(images))
    np.testing.assert_array_equal(groups, np.arange(30).repeat(3))


def test_sizes_may_be_mixed_within_a_group() -> None:
    parts = pictures(10, seed=4, side=96)
    images = [
        np.asarray(Image.fromarray((part * 200).astype(np.uint8)).resize(size))[..., None]
        for part in parts
        for size in ((96, 96), (64, 80), (40, 33))
    ]
    np.testing.assert_array_equal(near_duplicate_groups(thumbnails(images)), np.arange(10).repeat(3))


def test_small_steps_do_not_chain_into_one_group() -> None:
    stations = pictures(8, seed=5)
    steps = [(1 - t) * a + t * b for a, b in pairwise(stations) for t in np.linspace(0, 1, 20, endpoint=False)]
    thumbs = thumbnails([(200 * step).astype(np.uint8)[..., None] for step in steps])
    assert (np.diag(thumbs @ thumbs.T, 1) > 0.97).all()  # every image is a near-duplicate of the next one
    groups = near_duplicate_groups(thumbs)
    assert np.bincount(groups).max() < 20
    for group in range(groups.max() + 1):
        members = thumbs[groups == group]
        assert (members @ members.T).min() > 0.91


def test_aligned_parts_that_all_look_alike_are_not_duplicates_but_true_copies_are() -> None:
    rng = np.random.default_rng(6)
    common, grain = pictures(1, seed=6)[0], pictures(100, seed=7)
    images = [exposed(common + 0.1 * own, 1, rng) for own in grain]
    thumbs = thumbnails([*images, images[5]])
    assert np.median(thumbs @ thumbs.T) > 0.97
    groups = near_duplicate_groups(thumbs)
    assert groups[100] == groups[5]
    assert groups.max() + 1 == 100


def test_more_copies_than_neighbours_looked_at_are_still_one_group() -> None:
    rng = np.random.default_rng(8)
    parts = pictures(200, seed=8)
    images = [exposed(parts[0], 1, rng) for _ in range(100)] + [exposed(part, 1, rng) for part in parts[1:]]
    groups = near_duplicate_groups(thumbnails(images))
    assert (groups[:100] == 0).all()
    assert groups.max() + 1 == 200


def test_blank_images_are_one_group_however_many() -> None:
    blank = [np.full((10, 10, 1), level % 200, dtype=np.uint8) for level in range(300)]
    picture = (pictures(1, seed=9)[0] * 255).astype(np.uint8)[..., None]
    groups = near_duplicate_groups(thumbnails([*blank, picture]))
    np.testing.assert_array_equal(groups, [0] * 300 + [1])


def test_one_image_and_no_image_are_handled() -> None:
    picture = (pictures(1, seed=10)[0] * 255).astype(np.uint8)[..., None]
    assert near_duplicate_groups(thumbnails([picture])).tolist() == [0]
    assert near_duplicate_groups(thumbnails([])).tolist() == []


def test_groups_do_not_depend_on_where_a_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    thumbs = thumbnails([exposed(part, gain, rng) for gain in (0.5, 1.0) for part in pictures(40, seed=11)])
    whole = near_duplicate_groups(thumbs)
    monkeypatch.setattr("oddlens.data.near_duplicates.BLOCK", 7)
    np.testing.assert_array_equal(near_duplicate_groups(thumbs), whole)
    np.testing.assert_array_equal(whole, np.tile(np.arange(40), 2))


def test_ones_of_mnist_do_not_fall_into_one_group(real_data: Path) -> None:
    test = open_dataset("mnist", data_dir=real_data).test
    assert isinstance(test.images, np.ndarray)
    groups = near_duplicate_groups(thumbnails(test.images))
    assert np.bincount(groups).max() <= 50  # of 1,135 ones; measured: 37
    assert groups.max() + 1 > 9000


def test_exposures_of_a_magnetic_tile_stay_together(real_data: Path) -> None:
    train = open_dataset(real_data / "magnetic-tile").train
    thumbs = thumbnails(train.image(i) for i in range(len(train)))
    groups = near_duplicate_groups(thumbs)
    similar = thumbs @ thumbs.T
    np.fill_diagonal(similar, -1)
    nearest = similar.argmax(axis=1)
    twins = similar.max(axis=1) > 0.97
    assert twins.mean() > 0.8  # most tiles were photographed several times
    assert (groups[nearest] == groups)[twins].mean() > 0.98  # measured: 99.3%
    assert np.bincount(groups).max() <= 20  # measured: 18


# Splits


@st.composite
def groups_and_sizes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    groups = draw(st.lists(st.integers(0, 12), max_size=60))
    cuts = sorted(draw(st.lists(st.integers(0, len(groups)), max_size=4)))
    return groups, [b - a for a, b in pairwise([0, *cuts, len(groups)])]


@given(groups_and_sizes(), st.integers(0, 2**32 - 1))
def test_a_split_covers_all_images_once_divides_no_group_and_nearly_meets_the_sizes(
    case: tuple[list[int], list[int]], seed: int
) -> None:
    groups, sizes = np.array(case[0], dtype=np.intp), case[1]
    parts = split_groups(groups, sizes, seed)
    assert len(parts) == len(sizes)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(groups)))
    owners: dict[int, int] = {}
    for number, part in enumerate(parts):
        assert (np.diff(part) > 0).all()
        for group in groups[part].tolist():
            assert owners.setdefault(group, number) == number
    largest = int(np.bincount(groups).max()) if len(groups) else 1
    assert all(abs(len(part) - size) < largest for part, size in zip(parts, sizes, strict=True))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_without_duplicates_the_sizes_are_met_exactly(first: int, second: int, seed: int) -> None:
    parts = split_groups(np.arange(first + second), [first, second], seed)
    assert [len(part) for part in parts] == [first, second]


def test_the_same_seed_gives_the_same_split_and_another_one_another() -> None:
    groups = np.random.default_rng(12).integers(0, 150, 300)
    one, again, other = (split_groups(groups, [200, 100], seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in one] == [part.tolist() for part in again]
    assert one[0].tolist() != other[0].tolist()


def test_large_groups_go_to_each_part_as_often_as_its_size_says() -> None:
    groups = np.concatenate([np.zeros(10, dtype=int), np.arange(1, 41)])
    held = sum(0 in split_groups(groups, [40, 10], seed)[1] for seed in range(500))
    assert 60 < held < 140  # binomial(500, 0.2): within 4.5 standard deviations of 100


def test_sizes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(DataError, match=r"split of 3 images into parts of \[1, 1\] does not add up"):
        split_groups(np.arange(3), [1, 1], seed=0)
    with pytest.raises(DataError, match="does not add up"):
        split_groups(np.arange(3), [4, -1], seed=0)
