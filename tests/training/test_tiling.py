"""Which images are tiled, and how: from their sizes alone."""

from __future__ import annotations

import math

import pytest

from oddlens.config.base import MAX_SIDE, Tiling
from oddlens.data.image_header import ImageInfo
from oddlens.data.training_images import MaxSides
from oddlens.errors import SettingsError
from oddlens.training.tiling import Canvas, Tile, check_tile, choose_tiling, count_tiles, describe_tiling


def infos(*sizes: tuple[int, int]) -> list[ImageInfo]:
    """Grey images of these (height, width)."""
    return [ImageInfo(height, width, 1, 8) for height, width in sizes]


def choose(
    *sizes: tuple[int, int],
    tile: Tile = "auto",
    size: int | None = None,
    sides: MaxSides | None = None,
    seconds: float = math.inf,
) -> Canvas | None:
    return choose_tiling(infos(*sizes), tile, size, sides, seconds)


def test_images_keep_their_size_and_strips_their_shape() -> None:
    assert choose((32, 2048), tile=256) == (32, 2048, Tiling(height=32, width=256, overlap=64))
    assert choose((2048, 32), tile=256) == (2048, 32, Tiling(height=256, width=32, overlap=64))
    assert choose((601, 799), tile=128) == (601, 799, Tiling(height=128, width=128, overlap=32))
    assert choose((2, 500), tile=64) == (4, 500, Tiling(height=4, width=64, overlap=16))


def test_images_of_several_sizes_are_brought_to_the_median() -> None:
    canvas = choose((100, 200), (110, 220), (500, 900), tile=64)
    assert canvas is not None
    assert canvas[:2] == (110, 220)


def test_a_size_is_that_of_the_whole_image() -> None:
    canvas = choose((32, 2048), tile=256, size=1024)
    assert canvas == (16, 1024, Tiling(height=16, width=256, overlap=64))
    canvas = choose((6000, 8000), tile=256, size=8000)
    assert canvas is not None
    assert canvas[:2] == (6000, 8000)
    with pytest.raises(SettingsError, match=f"size: must be from 4 to {MAX_SIDE} pixels with tiles, got 20000"):
        choose((32, 2048), tile=256, size=20_000)


def test_one_tile_that_covers_the_image_is_no_tiling() -> None:
    canvas = choose((100, 130), tile=256)
    assert canvas == Canvas(100, 130, None)
    assert describe_tiling(infos((100, 130)), canvas) == (
        "tiles: none, because one tile covers images of 130 x 100 pixels"
    )


@pytest.mark.parametrize(
    ("size", "max_side", "is_tiled"),
    [
        ((28, 28), None, False),
        ((512, 512), None, False),
        ((1040, 1040), None, True),  # shrunk more than eightfold
        ((1040, 1040), 192, False),
        ((1552, 1552), 192, True),
        ((100, 400), None, False),
        ((90, 400), None, True),  # elongated
        ((40, 200), None, False),  # shrunk less than twofold
        ((32, 2048), None, True),
        ((32, 2048), 192, True),
        ((6000, 8000), 192, True),
    ],
)
def test_auto_tiles_images_that_would_be_shrunk_much_and_strips(
    size: tuple[int, int], max_side: int | None, is_tiled: bool
) -> None:
    sides = None if max_side is None else MaxSides(max_side, max_side, 0.01)
    canvas = choose(size, sides=sides)
    assert (canvas is not None) == is_tiled
    if canvas is not None:
        assert canvas.tiling is not None
        assert max(canvas.tiling.height, canvas.tiling.width) == (max_side or 128)


def test_auto_does_not_tile_where_a_size_is_set_and_off_never_does() -> None:
    assert choose((6000, 8000), size=512) is None
    assert choose((6000, 8000), tile="off") is None
    assert choose() is None


def test_auto_shrinks_images_that_have_too_many_tiles_for_the_budget() -> None:
    images = [(3000, 4000)] * 100
    canvases = [choose(*images, seconds=seconds) for seconds in (1, 30, 300, 3000, 1e6)]
    assert canvases[0] is None  # not even a few tiles
    counts = [0 if canvas is None else count_tiles(canvas) for canvas in canvases]
    assert counts == sorted(counts)
    for seconds, count in zip((1, 30, 300, 3000), counts, strict=False):
        assert 100 * count * 0.01 <= seconds / 2
    assert canvases[-1] is not None
    assert canvases[-1][:2] == (3000, 4000)
    assert choose(*images) == canvases[2]  # as with the default budget
    shrunk = canvases[2]
    assert shrunk is not None
    assert shrunk.width / shrunk.height == pytest.approx(4 / 3, rel=0.01)
    assert f"pixels, shrunk up to {4000 / shrunk.width:.1f}-fold, are scored" in describe_tiling(infos(*images), shrunk)


def test_the_remark_says_what_the_tiles_are() -> None:
    canvas = choose((32, 2048), tile=256)
    assert canvas is not None
    assert describe_tiling(infos((32, 2048)), canvas) == (
        "tiles: images of 2048 x 32 pixels are scored in tiles, 11 of 256 x 32 that overlap by 64 pixels or more; an "
        "image's score is that of its most anomalous tile"
    )


def test_too_many_tiles_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"tile: 333,500 tiles an image are more than .*; use larger tiles, or"):
        choose((6000, 8000), tile=16)


@pytest.mark.parametrize("tile", [15, 0, -3, 4097, "all", True, 64.0, None])
def test_a_tile_that_is_no_side_is_refused(tile: Tile) -> None:
    with pytest.raises(SettingsError, match="tile: must be 'auto', 'off' or a side from 16 to 4096 pixels, got"):
        check_tile(tile)


@pytest.mark.parametrize("tile", ["auto", "off", 16, 4096])
def test_sides_auto_and_off_are_accepted(tile: Tile) -> None:
    check_tile(tile)
