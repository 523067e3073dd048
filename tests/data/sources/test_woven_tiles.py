"""The data set `tiles` is reproducible, has exact masks, and is neither trivial nor unsolvable."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from oddlens.data.image_io import Pixels
from oddlens.data.sources import woven_tiles

Set = tuple[Pixels, Pixels, tuple[str, ...], npt.NDArray[np.bool_]]


@pytest.fixture(scope="module")
def tiles() -> Set:
    return woven_tiles.load_tiles(0)


def nearest(reference: npt.NDArray[np.floating], query: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Squared distance of each query row to the nearest reference row."""
    squares = (query**2).sum(1)[:, None] + (reference**2).sum(1) - 2 * query @ reference.T
    return np.asarray(squares.min(axis=1))


def auroc(normal: npt.NDArray[np.floating], anomalous: npt.NDArray[np.floating]) -> float:
    above, tied = anomalous[:, None] > normal, anomalous[:, None] == normal
    return float(above.mean() + tied.mean() / 2)


def thumbnails(pixels: Pixels, side: int) -> npt.NDArray[np.float64]:
    step = woven_tiles.SIDE // side
    blocks = pixels.reshape(len(pixels), side, step, side, step).astype(np.float64)
    return np.asarray(blocks.mean(axis=(2, 4)).reshape(len(pixels), -1))


def patches(pixels: Pixels) -> npt.NDArray[np.float32]:
    """16 x 16 patches every 4 pixels, each minus its mean: (N, patches, 256)."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], (16, 16), axis=(1, 2))[:, ::4, ::4]
    rows = windows.reshape(len(pixels), -1, 256).astype(np.float32)
    return np.asarray(rows - rows.mean(axis=-1, keepdims=True))


def test_shapes_types_and_counts(tiles: Set) -> None:
    train, test, kinds, masks = tiles
    assert train.shape == (500, 96, 96, 1)
    assert test.shape == (400, 96, 96, 1)
    assert masks.shape == (400, 96, 96)
    assert [part.dtype.name for part in (train, test, masks)] == ["uint8", "uint8", "bool"]
    assert Counter(kinds) == {"good": 200, "scratch": 40, "pit": 40, "broken_thread": 40, "stain": 40, "twist": 40}


def test_seed_0_is_pinned_to_the_byte(tiles: Set) -> None:
    train, test, _, masks = tiles
    digest = hashlib.sha256(train.tobytes() + test.tobytes() + masks.tobytes()).hexdigest()
    assert digest == "b449d93cbc1c3d3e4e4d2fb935c5d121b8eb6dc134dd28a0972abd695cf61c74"


def test_a_different_seed_gives_different_images(tiles: Set) -> None:
    image, _ = woven_tiles._draw_image(1, woven_tiles._TRAIN, 0)
    assert not any((image == other).all() for other in tiles[0][..., 0])


def test_a_mask_marks_exactly_the_pixels_that_the_defect_changed(tiles: Set) -> None:
    _, test, kinds, masks = tiles
    for i, kind in enumerate(kinds):
        if kind == "good":
            assert not masks[i].any()
            continue
        whole, _ = woven_tiles._draw_image(0, woven_tiles._DAMAGED, i)
        change = np.abs(test[i, ..., 0].astype(int) - whole)
        np.testing.assert_array_equal(masks[i], change > 0, err_msg=f"{kind} {i}")
        assert 30 <= masks[i].sum() <= 0.1 * masks[i].size
        assert change[masks[i]].mean() > 6, f"{kind} {i} is too faint to see"


def test_no_image_is_repeated(tiles: Set) -> None:
    train, test, kinds, _ = tiles
    good = test[np.array(kinds) == "good"]
    assert len({image.tobytes() for image in (*train, *test)}) == 900
    # Nor nearly: test images are as far from the nearest training image as training images are from each other.
    rows = thumbnails(train, 32)
    apart = [nearest(np.delete(rows, i, axis=0), rows[i : i + 1])[0] for i in range(100)]
    assert nearest(rows, thumbnails(good, 32)).min() > 0.5 * min(apart)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_thumbnails_do_not_reveal_the_defects(tiles: Set, side: int) -> None:
    train, test, kinds, _ = tiles
    anomalous = np.array(kinds) != "good"
    scores = nearest(thumbnails(train, side), thumbnails(test, side))
    assert auroc(scores[~anomalous], scores[anomalous]) <= 0.75


def test_nearest_patches_detect_every_type_of_defect(tiles: Set) -> None:
    """The set is solvable: distance of whitened 16 x 16 patches to the nearest of 3,000 good ones, image maximum."""
    train, test, kinds, _ = tiles
    reference = patches(train[:100]).reshape(-1, 256)
    values, vectors = np.linalg.eigh(np.cov(reference[::5].T))
    whitening = (vectors[:, -64:] / np.sqrt(values[-64:])).astype(np.float32)
    reference = (reference @ whitening)[:: len(reference) // 3000]

    def scores(kind: str, count: int) -> npt.NDArray[np.float32]:
        selected = test[np.flatnonzero(np.array(kinds) == kind)[:count]]
        return np.array([nearest(reference, rows @ whitening).max() for rows in patches(selected)])

    normal = scores("good", 40)
    aurocs = {kind: auroc(normal, scores(kind, 8)) for kind in woven_tiles.DEFECTS}
    assert min(aurocs.values()) >= 0.97, aurocs
