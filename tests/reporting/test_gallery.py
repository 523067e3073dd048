"""The figure to show around: images, heatmaps and verdicts side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from figure_checks import LONG_NAME, assert_nothing_overlaps, example, image_corners, render, texts

from oddlens.errors import DataError
from oddlens.reporting.gallery import gallery


def test_each_image_stands_above_its_heatmap_and_its_verdict(tmp_path: Path) -> None:
    examples = [example(0), example(1, 0.5, truth=1), example(2, 0.01, truth=1), example(3, 0.5, truth=0)]
    figure = gallery(examples, 255, 0.02, "Digits", "It caught some.")
    corners = image_corners(figure)
    assert len(corners) == 2 * 4 + 1, "and the color scale"
    assert len({left for left, _ in corners}) == 4
    words = texts(figure)
    assert (words.count("● normal"), words.count("▲ anomaly"), words.count("✓ right")) == (2, 2, 2)
    assert {"✗ wrong: missed", "✗ wrong: false alarm", "Digits", "It caught some.", "heatmap"} <= set(words)
    assert "score 0.01000 ≤ 0.02000" in words
    assert_nothing_overlaps(figure)
    assert render(figure, tmp_path).std() > 5


def test_more_than_six_images_take_a_second_row_and_long_names_stay_in_their_column() -> None:
    figure = gallery([example(i % 12, truth=None) for i in range(8)], 255, 0.02, LONG_NAME, LONG_NAME)
    assert len({left for left, _ in image_corners(figure)}) == 6
    assert len(image_corners(figure)) == 2 * 8 + 1
    assert "✓ right" not in texts(figure), "nobody knows what they are"
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize(("has_map", "map_threshold"), [(False, 0.02), (True, None)])
def test_without_maps_or_their_scale_there_is_no_heatmap(has_map: bool, map_threshold: float | None) -> None:
    figure = gallery([example(0, has_map=has_map)], 255, map_threshold, "Digits")
    assert len(image_corners(figure)) == 1
    assert "heatmap" not in texts(figure)
    assert_nothing_overlaps(figure)


def test_two_images_leave_room_for_the_longest_texts() -> None:
    summary = (
        "At a guaranteed false-alarm rate of 1.59%, it caught 100.0% of 1,063 anomalous images and flagged 10.0% of "
        "120 normal test images."
    )
    words = texts(gallery([example(0), example(1)], 255, 0.02, "Digits", summary))
    assert summary in words
    assert not any("…" in text for text in words)


def test_a_calm_map_has_no_color_and_one_far_above_the_threshold_is_red(tmp_path: Path) -> None:
    pages = [render(gallery([example(0)], 255, threshold, "Digits"), tmp_path) for threshold in (10.0, 1e-6)]
    reds = [((page[..., 0].astype(int) - page[..., 2]) > 100)[:-120].mean() for page in pages]  # without the scale
    assert reds[0] < 0.001 < 0.01 < reds[1]


def test_images_of_different_shapes_fit_into_their_columns() -> None:
    strip, photograph = (np.full((h, w, 3), 9, np.uint8) for h, w in ((8, 64), (300, 200)))
    shapes = [example(0), example(1), example(2)]
    for one, pixels in zip(shapes[1:], (strip, photograph), strict=True):
        object.__setattr__(one, "pixels", pixels)
    assert_nothing_overlaps(gallery(shapes, 255, 0.02, "Shapes"))


def test_without_examples_there_is_nothing_to_draw() -> None:
    with pytest.raises(DataError, match="no examples"):
        gallery([], 255, 0.02, "Digits")
