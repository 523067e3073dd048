"""The canvas: alignment to pixels, text that fits, and number formats."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from figure_checks import image_boxes

from oddlens.errors import DataError, MissingExtraError
from oddlens.reporting import canvas
from oddlens.reporting.canvas import Canvas


def text_width(page: Canvas, text: str) -> float:
    """The width of a text on the page, in inches."""
    page.text(0, 0, text)
    return float(page.figure.texts[-1].get_window_extent().width / canvas.NOMINAL_DPI)


@pytest.mark.parametrize("max_width", [0.4, 1.0, 2.5])
def test_long_text_is_cut_in_the_middle_to_the_largest_part_that_fits(max_width: float) -> None:
    page, text = Canvas(4, 2), "a_folder/with_a/long_name/" * 4 + "the end.png"
    fitting = page.fit(text, max_width)
    start, end = fitting.split("…")
    assert text.startswith(start)
    assert text.endswith(end)
    assert text_width(page, fitting) <= max_width + 0.02
    longer = text[: len(start) + 1] + "…" + text[len(text) - len(end) - 1 :]
    assert text_width(page, longer) > max_width


def test_text_that_fits_is_unchanged_and_unprintable_characters_are_replaced() -> None:
    page = Canvas(4, 2)
    assert page.fit("scratch.png", 3.0) == "scratch.png"
    assert page.fit("", 3.0) == ""
    assert page.fit("a\nb\udcff", 3.0) == "a□b□"


def test_images_are_aligned_to_saved_pixels() -> None:
    page = Canvas(3.001, 2.003)
    page.image(0.333, 0.777, (0.501, 0.499), np.zeros((8, 8)))
    edges = np.array(image_boxes(page.figure)[0])
    assert edges == pytest.approx([0.333, 0.777, 0.501, 0.499], abs=0.005)
    np.testing.assert_allclose(edges * canvas.SAVED_DPI, np.round(edges * canvas.SAVED_DPI), atol=1e-6)


def test_image_values_outside_0_to_1_are_clipped() -> None:
    drawn = Canvas(2, 2).image(0, 0, (1, 1), np.array([[-1.0, 0.5], [1.0, 7.0]]))
    assert np.asarray(drawn.get_array()).tolist() == [[0, 0.5], [1, 1]]
    assert drawn.get_clim() == (0, 1)


@pytest.mark.parametrize(
    ("shape", "target", "pixels"),
    [((8, 8, 1), 1.0, (200, 200)), ((30, 20), 1.0, (140, 210)), ((600, 300, 3), 1.4, (140, 280))],
)
def test_small_images_are_scaled_by_a_whole_number(
    shape: tuple[int, ...], target: float, pixels: tuple[int, int]
) -> None:
    width, height = canvas.cell_size(shape, target)
    assert (width * canvas.SAVED_DPI, height * canvas.SAVED_DPI) == pytest.approx(pixels)


@pytest.mark.parametrize(
    ("value", "text"), [(0.018, "0.01800"), (1234.0, "1234"), (-0.5, "−0.5000"), (float("inf"), "∞"), (0.0, "0.000")]
)
def test_scores_have_four_significant_digits(value: float, text: str) -> None:
    assert canvas.format_score(value) == text


def test_logarithmic_axes_have_plain_numbers() -> None:
    axes = Canvas(4, 2).axes(0.5, 0.2, 3, 1)
    axes.set_xlim(0.01, 100)
    canvas.scale_axis(axes, "x", 1e4)
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_major_formatter()(0.01, 0) == "0.01"
    canvas.scale_axis(axes, "y", 0)
    assert axes.get_yscale() == "linear"


def test_drawing_no_data_is_an_error() -> None:
    canvas.require_data(1, "images")
    with pytest.raises(DataError, match="there are no images to draw"):
        canvas.require_data(0, "images")


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        Canvas(1, 1)
