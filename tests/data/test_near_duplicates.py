"""Near-duplicates are grouped without chaining."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import fingerprints, near_duplicate_groups, thumbnails
from oddlens.data.open import open_dataset

GreyImage = npt.NDArray[np.float64]


def random_images(count: int, seed: int, side: int = 64) -> list[GreyImage]:
    """Smooth random images in 0..1 that are independent of each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 8, 8)).astype(np.float32)
    return [np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR)) for values in coarse]


def photograph(image: GreyImage, gain: float, rng: np.random.Generator) -> Pixels:
    """A photograph of an image: darker or brighter, with sensor noise."""
    values = 40 + 150 * gain * image + rng.normal(0, 3, image.shape)
    return np.clip(values, 0, 255).astype(np.uint8)[..., None]


# Thumbnails


def test_a_thumbnail_has_the_mean_of_each_cell_and_is_centred_with_unit_length() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 1), dtype=np.uint8)
    cells = image.reshape(16, 2, 16, 3).mean(axis=(1, 3)).ravel()
    cells -= cells.mean()
    np.testing.assert_allclose(thumbnails([image])[0], cells / np.linalg.norm(cells), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (17, 100), (333, 41)])
def test_cells_that_cut_pixels_weight_all_pixels_equally(shape: tuple[int, int]) -> None:
    # A ramp's cell means are the ramp at the cells' centres, whatever the number of pixels.
    ramp = np.linspace(0, 60000, shape[1]).astype(np.uint16)
    row = thumbnails([np.broadcast_to(ramp[None, :, None], (*shape, 1))])[0].reshape(16, 16)
    np.testing.assert_allclose(row, row[:1].repeat(16, axis=0), atol=1e-6)
    assert (np.diff(row[0]) >= 0).all()
    np.testing.assert_allclose(row[0], -row[0][::-1], atol=1e-3)


def test_size_brightness_contrast_and_depth_do_not_change_a_thumbnail() -> None:
    small = (random_images(1, seed=1, side=32)[0] * 100).astype(np.uint8)[..., None]
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    deep = small.astype(np.uint16) * 300 + 20
    colour = small.repeat(3, axis=2)
    rows = thumbnails([small, large, deep, small * 2 + 30, colour])
    np.testing.assert_allclose(rows @ rows.T, 1, atol=1e-4)


def test_flat_images_share_a_thumbnail_orthogonal_to_all_others() -> None:
    flat = [np.full((20, 30, 1), level, dtype=np.uint8) for level in (0, 7, 255)]
    rows = thumbnails([*flat, (random_images(1, seed=2)[0] * 255).astype(np.uint8)[..., None]])
    np.testing.assert_allclose(rows[:3] @ rows[:3].T, 1, atol=1e-6)
    np.testing.assert_allclose(rows[:3] @ rows[3], 0, atol=1e-6)


# Groups


def test_thumbnails_of_an_array_are_those_of_its_images_one_by_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 20, 28, 3), dtype=np.uint8)
    images[70] = 9  # a flat image
    np.testing.assert_array_equal(thumbnails(images), thumbnails(iter(images)))
    assert thumbnails(images[:0]).shape == (0, 256)


def test_exposures_of_one_part_are_one_group_and_different_parts_are_not() -> None:
    rng = np.random.default_rng(3)
    parts = random_images(30, seed=3)
    images = [photograph(part, gain, rng) for part in parts for gain in (0.4, 0.7, 1.0)]
    groups = near_duplicate_groups(thumbnails(images))
    np.testing.assert_array_equal(groups, np.arange(30).repeat(3))


def test_sizes_may_be_mixed_within_a_group() -> None:
    parts = random_images(10, seed=4, side=96)
    images = [
        np.asarray(Image.fromarray((part * 200).astype(np.uint8)).resize(size))[..., None]
        for part in parts
        for size in ((96, 96), (64, 80), (40, 33))
    ]
    np.testing.assert_array_equal(near_duplicate_groups(thumbnails(images)), np.arange(10).repeat(3))


def test_small_steps_do_not_chain_into_one_group() -> None:
    waypoints = random_images(8, seed=5)
    steps = [(1 - t) * a + t * b for a, b in pairwise(waypoints) for t in np.linspace(0, 1, 20, endpoint=False)]
    thumbs = thumbnails([(200 * step).astype(np.uint8)[..., None] for step in steps])
    assert (np.diag(thumbs @ thumbs.T, 1) > 0.97).all()  # every image is a near-duplicate of the next one
    groups = near_duplicate_groups(thumbs)
    assert np.bincount(groups).max() < 20
    for group in range(groups.max() + 1):
        members = thumbs[groups == group]
        assert (members @ members.T).min() > 0.91


def test_similar_aligned_parts_are_not_duplicates_but_copies_are() -> None:
    rng = np.random.default_rng(6)
    common, textures = random_images(1, seed=6)[0], random_images(100, seed=7)
    images = [photograph(common + 0.1 * texture, 1, rng) for texture in textures]
    thumbs = thumbnails([*images, images[5]])
    assert np.median(thumbs @ thumbs.T) > 0.97
    groups = near_duplicate_groups(thumbs)
    assert groups[100] == groups[5]
    assert groups.max() + 1 == 100


def test_more_copies_than_max_neighbours_are_one_group() -> None:
    rng = np.random.default_rng(8)
    parts = random_images(200, seed=8)
    images = [photograph(parts[0], 1, rng) for _ in range(100)] + [photograph(part, 1, rng) for part in parts[1:]]
    groups = near_duplicate_groups(thumbnails(images))
    assert (groups[:100] == 0).all()
    assert groups.max() + 1 == 200


def test_any_number_of_blank_images_is_one_group() -> None:
    blank = [np.full((10, 10, 1), level % 200, dtype=np.uint8) for level in range(300)]
    image = (random_images(1, seed=9)[0] * 255).astype(np.uint8)[..., None]
    groups = near_duplicate_groups(thumbnails([*blank, image]))
    np.testing.assert_array_equal(groups, [0] * 300 + [1])


def test_a_single_image_is_a_group_and_no_images_have_none() -> None:
    image = (random_images(1, seed=10)[0] * 255).astype(np.uint8)[..., None]
    assert near_duplicate_groups(thumbnails([image])).tolist() == [0]
    assert near_duplicate_groups(thumbnails([])).tolist() == []


def test_groups_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    thumbs = thumbnails([photograph(part, gain, rng) for gain in (0.5, 1.0) for part in random_images(40, seed=11)])
    whole = near_duplicate_groups(thumbs)
    monkeypatch.setattr("oddlens.data.near_duplicates.BLOCK_SIZE", 7)
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
    has_duplicate = similar.max(axis=1) > 0.97
    assert has_duplicate.mean() > 0.8  # most tiles were photographed several times
    assert (groups[nearest] == groups)[has_duplicate].mean() > 0.98  # measured: 99.3%
    assert np.bincount(groups).max() <= 20  # measured: 18


def test_fingerprints_are_equal_for_equal_images_only(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)
    changed = pixels.copy()
    changed[7, 3, 3, 0] ^= 1
    assert len(set(fingerprints(pixels).tolist())) == 50
    np.testing.assert_array_equal(np.flatnonzero(fingerprints(pixels) != fingerprints(changed)), [7])
