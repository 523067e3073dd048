"""Real images, examples and layout checks for the tests of figures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image
from sklearn.datasets import load_digits

from oddlens.reporting.figures import save_figure
from oddlens.reporting.image_grids import Example

DIGITS = np.round(load_digits().images[:12] * 255 / 16).astype(np.uint8)[..., None]  # (12, 8, 8, 1), real pixels
RECONSTRUCTIONS = (DIGITS / 255 * 0.8 + 0.1).astype(np.float32)
MAPS = np.abs(DIGITS / 255 - RECONSTRUCTIONS)[..., 0] ** 2
LONG_NAME = "a-very/long_name/with $x_1$ and more/" * 8 + "the end.png"


def example(
    index: int = 0,
    score: float = 0.02,
    *,
    truth: Literal[0, 1] | None = 0,
    has_reconstruction: bool = True,
    has_map: bool = True,
    mask: np.ndarray | None = None,
    name: str = "digits[0]",
) -> Example:
    """A digit as an example with threshold 0.02."""
    return Example(
        pixels=DIGITS[index],
        reconstruction=RECONSTRUCTIONS[index] if has_reconstruction else None,
        anomaly_map=MAPS[index] if has_map else None,
        mask=mask,
        kind="digit",
        score=score,
        threshold=0.02,
        name=name,
        truth=truth,
    )


def render(figure: Figure, folder: Path) -> np.ndarray:
    """The RGB pixels of a figure that was saved as PNG and read back."""
    with Image.open(save_figure(figure, folder / "figure.png")) as image:
        return np.asarray(image.convert("RGB"))


def texts(figure: Figure) -> list[str]:
    """All visible texts of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def drawn_images(figure: Figure) -> list[AxesImage]:
    """The images of a figure, in the order in which they were drawn."""
    return [image for axes in figure.axes for image in axes.images]


def image_boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height of every image on the page, in inches."""
    boxes = [image.get_window_extent() for image in drawn_images(figure)]
    top, dpi = figure.bbox.y1, figure.dpi
    return [(box.x0 / dpi, (top - box.y1) / dpi, box.width / dpi, box.height / dpi) for box in boxes]


def image_corners(figure: Figure) -> list[tuple[float, float]]:
    """Left and top of every image on the page, in inches; those of one row or column are equal."""
    return [(round(left, 3), round(top, 3)) for left, top, _, _ in image_boxes(figure)]


def assert_nothing_overlaps(figure: Figure) -> None:
    """Check that no two texts overlap and that none leaves the page."""
    figure.draw_without_rendering()
    unused = set()  # matplotlib creates ticks beyond the ends of an axis, and does not draw them
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            unused |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    visible = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = {text: text.get_window_extent() for text in visible if text not in unused}
    assert boxes
    for text, box in boxes.items():
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in itertools.combinations(boxes.items(), 2):
        apart_x = box.x1 <= other_box.x0 or other_box.x1 <= box.x0
        apart_y = box.y1 <= other_box.y0 or other_box.y1 <= box.y0
        assert apart_x or apart_y, (text, other)
