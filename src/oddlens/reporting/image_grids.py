"""Figures of images: reconstructions and verdicts.

Every function returns a matplotlib `Figure` that belongs to no window and no pyplot state; `figures.save_figure` writes
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from oddlens.reporting import heatmaps
from oddlens.reporting.canvas import (
    ANOMALY,
    FONT,
    GAP,
    HEADING,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    RULE,
    SMALL,
    Canvas,
    Floats,
    cell_size,
    format_score,
    require_data,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from oddlens.data.image_io import Pixels

COLUMNS = ("original", "reconstruction", "anomaly map")


@dataclass(frozen=True, eq=False)
class Example:
    """One image, (H, W, C) pixels, with the outputs and the verdict of a detector.

    `reconstruction` is (H, W, C) in 0..1, `anomaly_map` and `mask` are (H, W). `truth` is the label, 0 normal or
    1 anomalous; None if it is unknown, in which case no verdict is called wrong.
    """

    pixels: Pixels
    reconstruction: Floats | None
    anomaly_map: Floats | None
    mask: npt.NDArray[np.bool_] | None
    kind: str
    score: float
    threshold: float
    name: str
    truth: Literal[0, 1] | None

    @property
    def label(self) -> Literal[0, 1]:
        """The verdict: 1 (anomaly) above the threshold, 0 (normal) at it or below."""
        return 1 if self.score > self.threshold else 0

    @property
    def mistake(self) -> Literal["", "missed", "false alarm"]:
        """The kind of mistake, if the verdict is wrong."""
        if self.truth is None or self.truth == self.label:
            return ""
        return "missed" if self.truth else "false alarm"


def reconstruction_grid(
    pixels: Pixels, reconstructions: Floats, value_max: int, titles: Sequence[str] | None = None, heading: str = ""
) -> Figure:
    """Draw original images above their reconstructions, one column for each image.

    `pixels` are (N, H, W, C) in 0..value_max, `reconstructions` (N, H, W, C) in 0..1; `titles` label the columns.

    Raises:
        DataError: there are no images.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(pixels), "images")
    cell = cell_size(pixels.shape[1:], target=float(np.clip(9 / len(pixels), 0.5, 1.4)))
    first, step = MARGIN + 1.05, cell[0] + GAP
    top = MARGIN + 0.34 * bool(heading) + 0.24 * bool(titles)
    canvas = Canvas(max(first + len(pixels) * step - GAP + MARGIN, 4.0), top + 2 * cell[1] + GAP + MARGIN)
    canvas.text(MARGIN, MARGIN, heading, canvas.width - 2 * MARGIN, HEADING, weight="bold")
    for index, title in enumerate(titles or ()):
        canvas.text(first + index * step + cell[0] / 2, top - 0.05, title, cell[0], SMALL, ha="center", va="bottom")
    for name, images in (("original", pixels / value_max), ("reconstruction", reconstructions)):
        canvas.text(MARGIN, top + cell[1] / 2, name, va="center", color=MUTED)
        for index, image in enumerate(images):
            canvas.image(first + index * step, top, cell, image)
        top += cell[1] + GAP
    return canvas.figure


def verdict_grid(
    examples: Sequence[Example], value_max: int, heading: str = "", map_threshold: float | None = None
) -> Figure:
    """Draw one row for each example: the image with its mask outlined, reconstruction, anomaly map and verdict.

    Columns that are empty for all examples are left out. All maps share one colour scale, the calibrated one if
    `map_threshold` is given. Wrong verdicts are tinted and named in words, so that nothing depends on colour vision.

    Raises:
        DataError: there are no examples.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(examples), "examples")
    rows = [_row_images(example, value_max, map_threshold) for example in examples]
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [cell_size(example.pixels.shape, 1.25) for example in examples]
    heights = [max(cell[1], 1.0) + 2 * GAP for cell in cells]
    step = max(1.12, *(cell[0] for cell in cells)) + 2 * GAP
    lefts = [MARGIN + GAP + index * step for index in range(len(columns) + 1)]
    maps = [row["anomaly map"] for row in rows if "anomaly map" in row]
    top = MARGIN + 0.34 * bool(heading) + 0.25
    canvas = Canvas(lefts[-1] + 3.1 + MARGIN, top + sum(heights) + 0.55 * bool(maps) + MARGIN)
    canvas.text(MARGIN, MARGIN, heading, canvas.width - 2 * MARGIN, HEADING, weight="bold")
    for left, name in zip(lefts, [*columns, "verdict"], strict=True):
        canvas.text(left, top - 0.06, name, va="bottom", color=MUTED)
    limits = _color_limits(maps)
    for example, row, cell, height in zip(examples, rows, cells, heights, strict=True):
        if example.mistake:
            canvas.band(MARGIN, top + GAP / 4, canvas.width - 2 * MARGIN, height - GAP / 2)
        for left, name in zip(lefts, columns, strict=False):
            box = (left, top + (height - cell[1]) / 2, *cell)
            _draw_cell(canvas, box, example, (name, row.get(name)), limits, map_threshold)
        _draw_verdict(canvas, example, lefts[-1], top + height / 2)
        top += height
    corner, width = (lefts[-2], top + 0.12), max(cell[0] for cell in cells)
    if maps and map_threshold is not None:
        _draw_calibrated_scale(canvas, corner, width)
    elif maps:
        _draw_color_bar(canvas, corner, width, limits, max(float(values.max()) for values in maps))
    return canvas.figure


def draw_outline(image: AxesImage, mask: npt.NDArray[np.bool_], shape: tuple[int, ...], color: str = ANOMALY) -> None:
    """Draw a line exactly along the edges of the mask's pixels, over an image of `shape`, in its pixels."""
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Bbox, BboxTransform

    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])  # edges between a pixel and the one below it
    across = np.stack([x, y, x + 1, y], axis=1)
    y, x = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])  # edges between a pixel and its right neighbour
    edges = np.concatenate([across, np.stack([x, y, x, y + 1], axis=1)]).reshape(-1, 2, 2)
    lines = edges * (shape[1] / mask.shape[1], shape[0] / mask.shape[0])
    left, right, bottom, top = image.get_extent()
    axes = image.axes
    place = BboxTransform(Bbox.from_extents(0, 0, shape[1], shape[0]), Bbox.from_extents(left, top, right, bottom))
    for line_color, width in (("white", 1.8), (color, 0.9)):
        axes.add_collection(
            LineCollection(
                list(lines), colors=line_color, linewidths=width, capstyle="projecting",
                transform=place + axes.transData,
            ),
            autolim=False,
        )  # fmt: skip


def _row_images(example: Example, value_max: int, map_threshold: float | None) -> dict[str, Floats]:
    """Return the images of a row by their column, without those that the example lacks."""
    values = example.anomaly_map
    if values is not None and map_threshold is not None:
        float_map = values.astype(np.float32)
        values = heatmaps.overlay(example.pixels, float_map, map_threshold, value_max, outlined=False) / 255
    images = zip(COLUMNS, (example.pixels / value_max, example.reconstruction, values), strict=True)
    return {name: image for name, image in images if image is not None}


def _draw_cell(
    canvas: Canvas,
    box: tuple[float, float, float, float],
    example: Example,
    column: tuple[str, Floats | None],
    limits: tuple[float, float],
    map_threshold: float | None,
) -> None:
    """Draw the image of one column, and the outline of the mask or of the map above its threshold; a dash for none."""
    left, top, width, height = box
    name, image = column
    if image is None:
        canvas.text(left + width / 2, top + height / 2, "–", ha="center", va="center", color=MUTED)
        return
    is_map = name == "anomaly map"
    scale: dict[str, Any] = {}
    if is_map and map_threshold is None:
        scale = {"cmap": "inferno", "clim": limits}
    drawn = canvas.image(left, top, (width, height), image, **scale)
    if name == "original" and example.mask is not None:
        draw_outline(drawn, example.mask, example.pixels.shape)
    if is_map and map_threshold is not None and example.anomaly_map is not None:
        above = example.anomaly_map > map_threshold
        if above.any():
            draw_outline(drawn, above, example.pixels.shape, INK)


def _color_limits(maps: Sequence[Floats]) -> tuple[float, float]:
    """Return common limits for all maps: from 0, or the lowest value if negative, to the 99.9th percentile."""
    if not maps:
        return 0.0, 1.0
    values = np.concatenate([anomaly_map.ravel() for anomaly_map in maps])
    low, high = min(0.0, float(values.min())), float(np.quantile(values, 0.999))
    return low, high if high > low else low + 1.0


def _draw_color_bar(
    canvas: Canvas, corner: tuple[float, float], width: float, limits: tuple[float, float], largest: float
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = canvas.axes(*corner, width, 0.09)
    extend = "max" if largest > limits[1] else "neither"
    colors = ScalarMappable(Normalize(*limits), "inferno")
    bar = canvas.figure.colorbar(colors, axes, orientation="horizontal", extend=extend)
    bar.outline.set(edgecolor=RULE, linewidth=0.8)
    bar.set_ticks(list(limits), labels=[f"{value:.2g}" for value in limits])
    axes.tick_params(color=RULE, labelcolor=INK, labelsize=SMALL, labelfontfamily=FONT)
    _draw_scale_note(canvas, corner, width, "one scale for all maps")


def _draw_calibrated_scale(canvas: Canvas, corner: tuple[float, float], width: float) -> None:
    width = max(width, 1.0)  # narrow images leave too little room for the labels
    canvas.image(*corner, (width, 0.09), heatmaps.color_scale(200, 18) / 255)
    for share, text in ((0.0, "0"), (0.5, "threshold"), (1.0, "2×")):
        canvas.text(corner[0] + share * width, corner[1] + 0.13, text, size=SMALL, ha="center", va="top", color=INK)
    _draw_scale_note(canvas, corner, width, "outlined: above the map threshold")


def _draw_scale_note(canvas: Canvas, corner: tuple[float, float], width: float, note: str) -> None:
    canvas.text(corner[0] + width + 2 * GAP, corner[1] + 0.045, note, size=SMALL, va="center", color=MUTED)


def _draw_verdict(canvas: Canvas, example: Example, left: float, middle: float, max_width: float = 3.0) -> None:
    color, word, sign = (ANOMALY, "▲ anomaly", ">") if example.label else (NORMAL, "● normal", "≤")
    canvas.text(left, middle - 0.32, word, size=11, weight="bold", color=color, va="center")
    if example.mistake:
        canvas.text(left + 1.08, middle - 0.32, f"✗ wrong: {example.mistake}", size=10, weight="bold", va="center")
    elif example.truth is not None:
        canvas.text(left + 1.08, middle - 0.32, "✓ right", color=MUTED, va="center")
    score = f"score {format_score(example.score)} {sign} threshold {format_score(example.threshold)}"
    canvas.text(left, middle - 0.08, score, max_width, va="center")
    if example.kind:
        canvas.text(left, middle + 0.13, f"kind: {example.kind}", max_width, va="center")
    canvas.text(left, middle + 0.34, example.name, max_width, SMALL, color=MUTED, va="center")
