"""The figure to show around: test images side by side, the heatmap over each of them, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from oddlens.reporting import heatmaps
from oddlens.reporting.canvas import (
    ANOMALY,
    GAP,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    SAVED_DPI,
    SMALL,
    Canvas,
    Floats,
    cell_size,
    format_score,
    require_data,
)
from oddlens.reporting.image_grids import Example

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 1.5  # inches: longer side of an image
COLUMNS = 6  # images side by side
LINE = 0.2  # inches: height of a line of text
SCALE = 1.5  # inches: width of the color scale
MIN_WIDTH = 9.6  # inches, of the figure: room for its texts
TITLE = 14.0  # points


def gallery(
    examples: Sequence[Example], value_max: int, map_threshold: float | None, heading: str, summary: str = ""
) -> Figure:
    """Draw each example as a column: the image, its heatmap on the calibrated scale, and the verdict.

    Without `map_threshold`, or a map, there is no heatmap. Wrong verdicts are named in words.

    Raises:
        DataError: there are no examples.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(examples), "examples")
    has_maps = map_threshold is not None and any(example.anomaly_map is not None for example in examples)
    cells = [cell_size(example.pixels.shape, SIDE) for example in examples]
    width, height = (max(cell[axis] for cell in cells) for axis in (0, 1))
    step, block = max(width, 1.3) + 2 * GAP, LINE + (1 + has_maps) * (height + GAP) + 3.4 * LINE
    n_columns, n_blocks = min(COLUMNS, len(examples)), -(-len(examples) // COLUMNS)
    first, top = MARGIN + 0.85, MARGIN + 0.38 + (LINE + GAP) * bool(summary)
    canvas = Canvas(max(first + n_columns * step + MARGIN, MIN_WIDTH), top + n_blocks * block + 0.4 * has_maps + MARGIN)
    canvas.text(MARGIN, MARGIN, heading, canvas.width - 2 * MARGIN, TITLE, weight="bold")
    canvas.text(MARGIN, MARGIN + 0.32, summary, canvas.width - 2 * MARGIN, color=MUTED)
    for index, (example, cell) in enumerate(zip(examples, cells, strict=True)):
        row, column = divmod(index, COLUMNS)
        corner = (first + column * step, top + row * block)
        _draw_column(canvas, example, cell, corner, height, value_max, map_threshold if has_maps else None)
    for row in range(n_blocks):
        middle = top + row * block + LINE + height / 2
        for line, name in enumerate(("image", "heatmap")[: 1 + has_maps]):
            canvas.text(MARGIN, middle + line * (height + GAP), name, va="center", color=MUTED)
        canvas.text(MARGIN, _verdict_top(top + row * block, height, has_maps), "verdict", va="top", color=MUTED)
    if has_maps:
        _draw_scale(canvas, first, canvas.height - MARGIN - 0.3)
    return canvas.figure


def _verdict_top(top: float, height: float, has_maps: bool) -> float:
    return top + LINE + (1 + has_maps) * (height + GAP)


def _draw_column(
    canvas: Canvas,
    example: Example,
    cell: tuple[float, float],
    corner: tuple[float, float],
    height: float,
    value_max: int,
    map_threshold: float | None,
) -> None:
    """Draw the kind, image, heatmap and verdict of an example below the top left corner of its column."""
    left, top = corner
    width = max(cell[0], 1.3)
    canvas.text(left, top + LINE / 2, example.kind, width, va="center")
    place = top + LINE + (height - cell[1]) / 2
    canvas.image(left, place, cell, example.pixels / value_max)
    if map_threshold is not None and example.anomaly_map is not None:
        canvas.image(left, place + height + GAP, cell, _heatmap(example, cell, value_max, map_threshold))
    top = _verdict_top(top, height, map_threshold is not None)
    color, word, sign = (ANOMALY, "▲ anomaly", ">") if example.label else (NORMAL, "● normal", "≤")
    canvas.text(left, top, word, width, 10.5, weight="bold", color=color)
    right = "" if example.truth is None else "✓ right"
    canvas.text(left, top + LINE, f"✗ wrong: {example.mistake}" if example.mistake else right, width, SMALL, color=INK)
    score = f"score {format_score(example.score)} {sign} {format_score(example.threshold)}"
    canvas.text(left, top + 1.8 * LINE, score, width, SMALL, color=MUTED)


def _heatmap(example: Example, cell: tuple[float, float], value_max: int, map_threshold: float) -> Floats:
    """Draw the heatmap of an example in the pixels of its cell, so that its edges are smooth on small images."""
    assert example.anomaly_map is not None  # noqa: S101 - the caller has checked
    factor = max(1, round(cell[0] * SAVED_DPI / example.pixels.shape[1]))
    enlarged = example.pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    values = example.anomaly_map.astype(np.float32)
    return heatmaps.overlay(enlarged, values, map_threshold, value_max) / 255


def _draw_scale(canvas: Canvas, left: float, top: float) -> None:
    """Draw the color scale with its explanation."""
    canvas.image(left, top, (SCALE, 0.1), heatmaps.color_scale(300, 20) / 255)
    for share, text in ((0.0, "0"), (0.5, "threshold"), (1.0, "2×")):
        canvas.text(left + share * SCALE, top + 0.14, text, size=SMALL, ha="center", color=INK)
    note = "Outlined: above the level that normal images stay below. The first test images, not a selection."
    left += SCALE + 3 * GAP
    canvas.text(left, top + 0.05, note, canvas.width - left - MARGIN, SMALL, va="center", color=MUTED)
