"""Figures of images: layout, outlines, colour scales and verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from figure_checks import (
    DIGITS,
    LONG_NAME,
    MAPS,
    RECONSTRUCTIONS,
    assert_nothing_overlaps,
    drawn_images,
    example,
    image_boxes,
    image_corners,
    render,
    texts,
)
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from oddlens.errors import DataError
from oddlens.reporting import image_grids
from oddlens.reporting.canvas import WASH


def test_reconstruction_grid_has_two_rows_and_a_column_per_image(tmp_path: Path) -> None:
    figure = image_grids.reconstruction_grid(DIGITS, RECONSTRUCTIONS, 255, [LONG_NAME] * 12, heading=LONG_NAME)
    corners = image_corners(figure)
    assert len(corners) == 24
    assert len({left for left, _ in corners}) == 12
    assert len({top for _, top in corners}) == 2
    assert {"original", "reconstruction"} <= set(texts(figure))
    assert_nothing_overlaps(figure)
    image = render(figure, tmp_path)
    assert image.shape[:2] == (round(figure.get_figheight() * 200), round(figure.get_figwidth() * 200))


@pytest.mark.parametrize(("dtype", "value_max"), [("uint8", 255), ("uint16", 4095)])
def test_pixels_of_a_small_image_are_sharp_squares_of_its_own_values(
    tmp_path: Path, dtype: str, value_max: int
) -> None:
    pixels = np.round(DIGITS[:1] / 255 * value_max).astype(dtype)
    figure = image_grids.reconstruction_grid(pixels, pixels / value_max, value_max)
    page = render(figure, tmp_path)
    side = round(image_boxes(figure)[0][2] * 200)
    assert side % 8 == 0
    for left, top in image_corners(figure):
        drawn = page[round(top * 200) :, round(left * 200) :][:side, :side, 0].astype(int)
        squares = drawn.reshape(8, side // 8, 8, side // 8)[:, 2:-2, :, 2:-2]  # without the hairline frame
        assert np.ptp(squares, axis=(1, 3)).max() == 0
        np.testing.assert_allclose(squares[:, 0, :, 0], DIGITS[0, :, :, 0], atol=1)


def test_a_large_image_is_shrunk_with_its_aspect_ratio() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (2, 600, 300, 3), dtype=np.uint8)
    figure = image_grids.reconstruction_grid(photograph, photograph / 255, 255)
    _, _, width, height = image_boxes(figure)[0]
    assert height == pytest.approx(1.4, abs=0.01)
    assert width == pytest.approx(0.7, abs=0.01)


def test_verdict_grid_shows_each_image_with_its_score_and_verdict(tmp_path: Path) -> None:
    figure = image_grids.verdict_grid([example(0, 0.031, truth=1), example(1, 0.02)], 255, "Two digits")
    assert len(image_corners(figure)) == 6
    drawn_texts = texts(figure)
    assert {"original", "reconstruction", "anomaly map", "verdict", "▲ anomaly", "● normal"} <= set(drawn_texts)
    assert "score 0.03100 > threshold 0.02000" in drawn_texts
    assert "score 0.02000 ≤ threshold 0.02000" in drawn_texts, "a score equal to the threshold is normal"
    assert drawn_texts.count("✓ right") == 2
    assert not any("wrong" in text for text in drawn_texts)
    assert render(figure, tmp_path).std() > 10


@pytest.mark.parametrize(
    ("has_reconstruction", "has_map", "columns"),
    [(True, True, 3), (False, True, 2), (True, False, 2), (False, False, 1)],
)
def test_a_column_that_is_empty_for_all_examples_is_left_out(
    has_reconstruction: bool, has_map: bool, columns: int
) -> None:
    figure = image_grids.verdict_grid([example(has_reconstruction=has_reconstruction, has_map=has_map)] * 2, 255)
    assert len({left for left, _ in image_corners(figure)}) == columns
    assert ("reconstruction" in texts(figure)) == has_reconstruction
    assert ("anomaly map" in texts(figure)) == has_map
    assert ("one scale for all maps" in texts(figure)) == has_map


def test_a_missing_map_is_shown_as_a_dash() -> None:
    figure = image_grids.verdict_grid([example(), example(has_map=False)], 255)
    assert len(image_corners(figure)) == 5
    assert texts(figure).count("–") == 1


def test_wrong_verdicts_are_marked_in_words_unless_the_label_is_unknown(tmp_path: Path) -> None:
    missed, false_alarm, unknown = example(0, 0.01, truth=1), example(1, 0.9, truth=0), example(2, 0.9, truth=None)
    assert (missed.mistake, false_alarm.mistake, unknown.mistake) == ("missed", "false alarm", "")
    figure = image_grids.verdict_grid([missed, false_alarm, unknown], 255)
    marks = [text for text in texts(figure) if "wrong" in text or "right" in text]
    assert marks == ["✗ wrong: missed", "✗ wrong: false alarm"]
    tinted = [box for box in figure.findobj(Rectangle) if to_hex(box.get_facecolor()) == WASH]
    assert [box.get_height() < box.get_width() for box in tinted] == [True, True]
    page = render(figure, tmp_path)
    for box in tinted:
        left, top = round(200 * box.get_x()), round(200 * box.get_y())
        assert to_hex(page[top + 4, left + 4] / 255) == WASH


def test_all_maps_share_one_color_scale() -> None:
    figure = image_grids.verdict_grid([example(index) for index in range(3)], 255)
    limits = {image.get_clim() for image in drawn_images(figure) if image.get_cmap().name == "inferno"}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == 0
    assert high == pytest.approx(np.quantile(MAPS[:3], 0.999))


def test_the_outline_follows_the_pixel_edges_of_the_mask() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 3:5] = True
    figure = image_grids.verdict_grid([example(mask=mask)], 255)
    (lines, *_) = figure.axes[0].findobj(LineCollection)
    segments = np.array(lines.get_segments())
    assert len(segments) == 2 * (3 + 2)
    left, top, width, height = image_boxes(figure)[0]
    on_page = lines.get_transform().transform(segments.reshape(-1, 2)) / figure.dpi
    x = (on_page[:, 0] - left) / width * 8
    y = (figure.get_figheight() - on_page[:, 1] - top) / height * 8
    assert [x.min(), x.max(), y.min(), y.max()] == pytest.approx([3, 5, 2, 5])


def test_an_empty_mask_has_no_outline(tmp_path: Path) -> None:
    figure = image_grids.verdict_grid([example(mask=np.zeros((8, 8), dtype=bool))], 255)
    assert not any(lines.get_segments() for lines in figure.findobj(LineCollection))
    assert render(figure, tmp_path).std() > 10


def test_hostile_and_very_long_names_are_drawn_as_plain_text_that_fits(tmp_path: Path) -> None:
    names = [LONG_NAME, "$\\frac{1}{0}$.png", "two\nlines\t.png", "写真\udcff.png", "", "_hidden", "x" * 5000]
    figure = image_grids.verdict_grid([example(name=name) for name in names], 255, LONG_NAME)
    assert_nothing_overlaps(figure)
    assert "two□lines□.png" in texts(figure)
    assert "$\\frac{1}{0}$.png" in texts(figure)
    assert render(figure, tmp_path).shape[1] == round(figure.get_figwidth() * 200)


@pytest.mark.parametrize("width", [8, 16, 32])
def test_the_labels_of_the_calibrated_scale_fit_below_narrow_images(width: int) -> None:
    pixels, anomaly_map = np.zeros((64, width, 1), np.uint8), np.ones((64, width), np.float32)
    narrow = dataclasses.replace(example(), pixels=pixels, anomaly_map=anomaly_map, reconstruction=None, mask=None)
    assert_nothing_overlaps(image_grids.verdict_grid([narrow], 255, map_threshold=0.5))


def test_calibrated_maps_have_no_color_far_below_the_threshold_and_an_outline_above_it() -> None:
    highest = float(MAPS[0].max())
    for threshold, outlined in ((2 * highest, False), (highest / 2, True)):
        figure = image_grids.verdict_grid([example()], 255, map_threshold=threshold)
        assert any(axes.collections for axes in figure.axes) == outlined
        assert {"threshold", "outlined: above the map threshold"} <= set(texts(figure))
        assert_nothing_overlaps(figure)
        original, _, mapped, scale = (np.asarray(image.get_array()) for image in drawn_images(figure))
        assert mapped.shape[-1] == scale.shape[-1] == 3
        quiet = MAPS[0] < threshold / 2
        assert mapped[quiet].std(axis=-1).max() == pytest.approx(0, abs=1e-6)  # as grey as the original
        assert (mapped[MAPS[0] > threshold].std(axis=-1) > 0.05).all()
        assert original.shape == MAPS[0].shape


def test_drawing_nothing_is_an_error() -> None:
    draws: list[Callable[[], Figure]] = [
        lambda: image_grids.reconstruction_grid(DIGITS[:0], RECONSTRUCTIONS[:0], 255),
        lambda: image_grids.verdict_grid([], 255),
    ]
    for draw in draws:
        with pytest.raises(DataError, match=r"^there are no [a-z ]+ to draw: found 0, give at least one$"):
            draw()
