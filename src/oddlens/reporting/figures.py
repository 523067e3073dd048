"""Pictures that people look at: reconstructions, verdicts, score histograms, ROC and training curves.

Every function gives a matplotlib `Figure` that belongs to no window and no pyplot state; `save` writes it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from oddlens.errors import DataError
from oddlens.io.atomic import write_bytes
from oddlens.metrics import auroc
from oddlens.reporting import heatmaps
from oddlens.reporting.canvas import (
    ANOMALY,
    CURVES,
    DASHES,
    FONT,
    GAP,
    HEADING,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    RULE,
    SAVED_DPI,
    SMALL,
    Canvas,
    Floats,
    cell_size,
    format_score,
    label_axes,
    legend_beside,
    scale_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from oddlens.data.image_io import Pixels


@dataclass(frozen=True, eq=False)
class Example:
    """One judged image: (H, W, C) pixels, and what the detector made of it.

    `reconstruction` is (H, W, C) in 0..1, `anomaly_map` and `mask` are (H, W). `truth` is 0 for an image known
    to be normal, 1 for one known to be anomalous, None where nobody knows: then no verdict is called wrong.
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
        """What went wrong, if the verdict is known to be wrong."""
        if self.truth is None or self.truth == self.label:
            return ""
        return "missed" if self.truth else "false alarm"


def reconstructions(
    pixels: Pixels, reconstructed: Floats, value_max: int, titles: Sequence[str] | None = None, heading: str = ""
) -> Figure:
    """Draw originals above their reconstructions, a column each.

    (N, H, W, C) pixels in 0..value_max and (N, H, W, C) reconstructions in 0..1; `titles` stand over the columns.

    Raises:
        DataError: there are no images.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(pixels), "images")
    cell = cell_size(pixels.shape[1:], target=float(np.clip(9 / len(pixels), 0.5, 1.4)))
    first, step = MARGIN + 1.05, cell[0] + GAP
    top = MARGIN + 0.34 * bool(heading) + 0.24 * bool(titles)
    sheet = Canvas(max(first + len(pixels) * step - GAP + MARGIN, 4.0), top + 2 * cell[1] + GAP + MARGIN)
    sheet.text(MARGIN, MARGIN, heading, sheet.width - 2 * MARGIN, HEADING, weight="bold")
    for index, title in enumerate(titles or ()):
        sheet.text(first + index * step + cell[0] / 2, top - 0.05, title, cell[0], SMALL, ha="center", va="bottom")
    for name, images in (("original", pixels / value_max), ("reconstruction", reconstructed)):
        sheet.text(MARGIN, top + cell[1] / 2, name, va="center", color=MUTED)
        for index, image in enumerate(images):
            sheet.picture(first + index * step, top, cell, image)
        top += cell[1] + GAP
    return sheet.figure


def verdict_rows(examples: Sequence[Example], value_max: int, heading: str = "", level: float | None = None) -> Figure:
    """Draw one row an image: original with its mask outlined, reconstruction, anomaly map, verdict.

    A column that no example can fill is left out. All maps share one colour scale: the calibrated one where `level`
    says what normal images stay below. Wrong verdicts stand on a tinted band and say what went wrong in words, so that
    nothing depends on seeing colours.

    Raises:
        DataError: there are no examples.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(examples), "examples")
    rows = [_pictures(example, value_max, level) for example in examples]
    columns = [name for name in ("original", "reconstruction", "anomaly map") if any(name in row for row in rows)]
    cells = [cell_size(example.pixels.shape, 1.25) for example in examples]
    heights = [max(cell[1], 1.0) + 2 * GAP for cell in cells]
    step = max(1.12, *(cell[0] for cell in cells)) + 2 * GAP
    lefts = [MARGIN + GAP + index * step for index in range(len(columns) + 1)]
    maps = [row["anomaly map"] for row in rows if "anomaly map" in row]
    top = MARGIN + 0.34 * bool(heading) + 0.25
    sheet = Canvas(lefts[-1] + 3.1 + MARGIN, top + sum(heights) + 0.55 * bool(maps) + MARGIN)
    sheet.text(MARGIN, MARGIN, heading, sheet.width - 2 * MARGIN, HEADING, weight="bold")
    for left, name in zip(lefts, [*columns, "verdict"], strict=True):
        sheet.text(left, top - 0.06, name, va="bottom", color=MUTED)
    low, high = _colour_range(maps)
    for example, row, cell, height in zip(examples, rows, cells, heights, strict=True):
        if example.mistake:
            sheet.band(MARGIN, top + GAP / 4, sheet.width - 2 * MARGIN, height - GAP / 2)
        for left, name in zip(lefts, columns, strict=False):
            if name in row:
                plain = name == "anomaly map" and level is None
                scale = {"cmap": "inferno", "vmin": low, "vmax": high} if plain else {}
                drawn = sheet.picture(left, top + (height - cell[1]) / 2, cell, row[name], **scale)
                if name == "original" and example.mask is not None:
                    outline(drawn.axes, example.mask, example.pixels.shape)
                values = example.anomaly_map
                if name == "anomaly map" and level is not None and values is not None and (values > level).any():
                    outline(drawn.axes, values > level, example.pixels.shape, INK)
            else:
                sheet.text(left + cell[0] / 2, top + height / 2, "–", ha="center", va="center", color=MUTED)
        _verdict(sheet, example, lefts[-1], top + height / 2)
        top += height
    width = max(cell[0] for cell in cells)
    if maps and level is not None:
        _level_bar(sheet, (lefts[-2], top + 0.12), width)
    elif maps:
        _colour_bar(sheet, (lefts[-2], top + 0.12), width, (low, high), max(float(each.max()) for each in maps))
    return sheet.figure


def score_histogram(scores: Mapping[str, Floats], thresholds: Mapping[str, float], normal: str) -> Figure:
    """Draw one histogram a kind on a shared axis, the normal images' outline repeated over each of the others.

    `scores` gives (n,) scores for each kind; `normal` names the normal one. Kinds are sorted by their median, the
    hardest to tell from normal first. The figures at the right are the share above the first of `thresholds`.
    Scores that span orders of magnitude get a logarithmic axis; what lies far out is gathered in the outermost bars.

    Raises:
        DataError: there are no scores of normal images.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(scores.get(normal, ())), "scores of normal images")
    others = [kind for kind in scores if kind != normal and len(scores[kind])]
    kinds = [normal, *sorted(others, key=lambda kind: float(np.median(scores[kind])))]
    height = 0.72 if len(kinds) <= 4 else 0.44
    left, right, top = 1.9, 0.85, MARGIN + 0.22 * len(thresholds) + 0.1
    sheet = Canvas(7.4, top + height * len(kinds) + 0.62)
    axes = sheet.axes(left, top, sheet.width - left - right, height * len(kinds))
    edges, logarithmic, clipped = _bins(scores, list(thresholds.values()), normal)
    for index, kind in enumerate(kinds):
        color, base = NORMAL if kind == normal else ANOMALY, len(kinds) - 1 - index
        axes.stairs(_bars(scores[kind], edges) + base, edges, baseline=base, fill=True, color=color, alpha=0.75)
        axes.stairs(_bars(scores[normal], edges) + base, edges, baseline=base, color=NORMAL, linewidth=0.8)
        axes.axhline(base, color=RULE, linewidth=1)
        middle = top + (index + 0.6) * height
        sheet.text(MARGIN, middle, kind, left - MARGIN - 0.1, weight="bold", color=color, va="bottom")
        sheet.text(MARGIN, middle + 0.01, f"{len(scores[kind]):,} images", size=SMALL, color=MUTED)
        for value in list(thresholds.values())[:1]:
            share = f"{np.mean(scores[kind] > value):.1%}"
            sheet.text(sheet.width - MARGIN, middle, share, weight="bold", color=color, ha="right", va="center")
    if thresholds:
        title = "flagged" if len(thresholds) == 1 else "over solid line"
        sheet.text(sheet.width - MARGIN, top - 0.05, title, size=SMALL, ha="right", va="bottom", color=MUTED)
    marks = [
        axes.axvline(x, color=INK, linewidth=1.2, linestyle=DASHES[i % 3]) for i, x in enumerate(thresholds.values())
    ]
    labels = [sheet.fit(f"threshold {format_score(value)} ({name})", 3.8) for name, value in thresholds.items()]
    legend_beside(axes, marks, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.3)
    axes.set(ylim=(0, len(kinds)), yticks=[], xlim=(edges[0], edges[-1]))
    axes.spines["left"].set_visible(False)
    scale_axis(axes, "x", float(edges[-1] / edges[0]) if logarithmic else 0)
    notes = ["logarithmic"] * logarithmic + ["the outermost bars hold what lies beyond"] * clipped
    label_axes(axes, "anomaly score" + (f" ({'; '.join(notes)})" if notes else ""), "")
    return sheet.figure


def roc(
    curves: Mapping[str, tuple[npt.ArrayLike, Floats]], points: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draw ROC curves with their AUROC in the legend, and where decisions work.

    `curves` gives (labels, scores) for each name, labels 0 normal and 1 anomalous. `points` gives each decision's
    measured (false-alarm rate, detection rate); they are over images that no threshold was made from, so that they
    may lie a little off a curve over all images.

    Raises:
        DataError: there are no curves, or one lacks normal or anomalous images.
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    _need(len(curves), "curves")
    points = points or {}
    areas = {name: auroc(*curve) for name, curve in curves.items()}
    from sklearn.metrics import roc_curve

    sheet = Canvas(7.4, max(4.2, 0.6 + 0.2 * (len(curves) + len(points))))
    axes = sheet.axes(0.65, MARGIN, 3.4, 3.4)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=DASHES[1])
    handles, labels = [], []
    for index, (name, (truth, scores)) in enumerate(curves.items()):
        ranks = np.unique(scores, return_inverse=True)[1]  # the same curve, and scikit-learn takes no infinite scores
        false_alarms, caught, _ = roc_curve(truth, ranks)
        color, dash = CURVES[index % len(CURVES)], DASHES[index // len(CURVES) % 3]
        handles += axes.plot(false_alarms, caught, color=color, linewidth=1.8, linestyle=dash)
        labels.append(f"{areas[name]:.3f}  {sheet.fit(name, 2.1)}")
    for marker, (decision, (x, y)) in zip(cycle("oDs"), points.items(), strict=False):
        handles += axes.plot(x, y, marker, color=INK, markersize=7, markeredgecolor="white", clip_on=False, zorder=5)
        labels.append(sheet.fit(f"caught {y:.1%} at {x:.1%} ({decision})", 2.6))
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    label_axes(axes, "false alarms (share of normal images flagged)", "caught (share of anomalies flagged)")
    title = "AUROC; share caught at share of false alarms" if points else "AUROC"
    legend_beside(axes, handles, labels, loc="upper left", bbox_to_anchor=(1.04, 1.03), title=title)
    return sheet.figure


def training_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw every loss of a training history over its epochs: rows {"epoch": 1, "loss": 0.03, "seconds": 2.1, ...}.

    Raises:
        DataError: the history is empty.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(history), "epochs")
    sheet = Canvas(7.4, 3.2)
    axes = sheet.axes(0.85, MARGIN + 0.3, 6.2, 2.15)
    names = list(dict.fromkeys(name for row in history for name in row if "loss" in name))
    handles, losses = [], [row[name] for row in history for name in names if name in row]
    for index, name in enumerate(names):
        epochs, values = zip(*((row["epoch"], row[name]) for row in history if name in row), strict=True)
        marker = "o" if len(epochs) <= 30 else ""
        color = CURVES[index % len(CURVES)]
        handles += axes.plot(epochs, values, color=color, marker=marker, markersize=4.5, linewidth=1.8)
    low, high = min(losses, default=0), max(losses, default=0)
    scale_axis(axes, "y", high / low if low > 0 and high > 20 * low else 0)
    axes.set_xlim(min(row["epoch"] for row in history) - 0.5, max(row["epoch"] for row in history) + 0.5)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    legend_beside(
        axes,
        handles,
        [sheet.fit(name.replace("_", " "), 1.3) for name in names],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
    )
    seconds = sum(row.get("seconds", 0.0) for row in history)
    note = f"{len(history)} epoch{'s' * (len(history) > 1)}" + (f" in {seconds:,.3g} s" if seconds else "")
    sheet.text(7.05, MARGIN + 0.18, note, color=MUTED, ha="right", va="bottom")
    label_axes(axes, "epoch", "loss")
    return sheet.figure


def contact_sheet(pictures: Sequence[Pixels], names: Sequence[str]) -> Figure:
    """Draw images (H, W, C) of any sizes beside and below each other, each over its name; six in a row.

    Raises:
        DataError: there are no images.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(pictures), "images")
    room, across = 1.1, min(6, len(pictures))
    rows = -(-len(pictures) // across)
    step = (room + 2 * GAP, room + 0.3)
    sheet = Canvas(2 * MARGIN + across * step[0], 2 * MARGIN + rows * step[1])
    for place, (pixels, name) in enumerate(zip(pictures, names, strict=True)):
        left, top = MARGIN + place % across * step[0], MARGIN + place // across * step[1]
        width, height = cell_size(pixels.shape, room)
        box = (left + (room - width) / 2, top + (room - height) / 2)
        sheet.picture(*box, (width, height), pixels / np.iinfo(pixels.dtype).max)
        sheet.text(left + room / 2, top + room + 0.04, name, room, SMALL, ha="center", color=MUTED)
    return sheet.figure


def drift_curve(evidence: Sequence[float], limit: float, alarm: int | None) -> Figure:
    """Draw the evidence for drift, (N,) log10 of the capital after each image, and the limit of the alarm.

    Raises:
        DataError: there are no images.
        MissingExtraError: matplotlib is not installed.
    """
    _need(len(evidence), "images")
    sheet = Canvas(7.4, 3.2)
    axes = sheet.axes(0.85, MARGIN + 0.3, 6.2, 2.15)
    places = np.arange(1, len(evidence) + 1)
    lines = [axes.plot(places, evidence, color=NORMAL, linewidth=1.4)[0]]
    lines.append(axes.axhline(limit, color=INK, linewidth=1.2, linestyle=DASHES[1]))
    names = ["evidence", f"alarm at {limit:.3g}"]
    if alarm is not None:
        lines += axes.plot(alarm + 1, evidence[alarm], "o", color=ANOMALY, markersize=7, markeredgecolor="white")
        names.append(f"raised at image {alarm + 1:,}")
    axes.set_xlim(0.5, len(evidence) + 0.5)
    axes.set_ylim(min(*evidence, 0.0) - 0.3, max(*evidence, limit) + 0.4)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    legend_beside(axes, lines, names, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3)
    label_axes(axes, "image of the stream", "log10 of the capital")
    return sheet.figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, two pixels for each nominal one; the file appears whole or not at all.

    Raises:
        OddlensError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SAVED_DPI, facecolor="white")
    return write_bytes(path, buffer.getvalue())


def _need(count: int, what: str) -> None:
    if not count:
        raise DataError(f"there are no {what} to draw: found 0, give at least one")


def _pictures(example: Example, value_max: int, level: float | None) -> dict[str, Floats]:
    values = example.anomaly_map
    if values is not None and level is not None:
        values = heatmaps.overlay(example.pixels, values.astype(np.float32), level, value_max, outlined=False) / 255
    every = {"original": example.pixels / value_max, "reconstruction": example.reconstruction, "anomaly map": values}
    return {name: picture for name, picture in every.items() if picture is not None}


def outline(axes: Axes, mask: npt.NDArray[np.bool_], shape: tuple[int, ...], color: str = ANOMALY) -> None:
    """Draw a line exactly along the edges of the mask's pixels, over an image of `shape`."""
    from matplotlib.collections import LineCollection

    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])  # edges between a pixel and the one below it
    across = np.stack([x, y, x + 1, y], axis=1)
    y, x = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])  # edges between a pixel and its right neighbour
    edges = np.concatenate([across, np.stack([x, y, x, y + 1], axis=1)]).reshape(-1, 2, 2)
    lines = edges * (shape[1] / mask.shape[1], shape[0] / mask.shape[0]) - 0.5
    for drawn, width in (("white", 1.8), (color, 0.9)):
        axes.add_collection(LineCollection(list(lines), colors=drawn, linewidths=width, capstyle="projecting"))


def _colour_range(maps: Sequence[Floats]) -> tuple[float, float]:
    """One range for all maps: from 0, or from the lowest value where some are negative, to all but the top 0.1%."""
    if not maps:
        return 0.0, 1.0
    values = np.concatenate([each.ravel() for each in maps])
    low, high = min(0.0, float(values.min())), float(np.quantile(values, 0.999))
    return low, high if high > low else low + 1.0


def _colour_bar(
    sheet: Canvas, corner: tuple[float, float], width: float, shown: tuple[float, float], largest: float
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = sheet.axes(*corner, width, 0.09)
    extend = "max" if largest > shown[1] else "neither"
    colours = ScalarMappable(Normalize(*shown), "inferno")
    bar = sheet.figure.colorbar(colours, axes, orientation="horizontal", extend=extend)
    bar.outline.set(edgecolor=RULE, linewidth=0.8)
    bar.set_ticks(list(shown), labels=[f"{value:.2g}" for value in shown])
    axes.tick_params(color=RULE, labelcolor=INK, labelsize=SMALL, labelfontfamily=FONT)
    note = "one scale for all maps"
    sheet.text(corner[0] + width + 2 * GAP, corner[1] + 0.045, note, size=SMALL, va="center", color=MUTED)


def _level_bar(sheet: Canvas, corner: tuple[float, float], width: float) -> None:
    sheet.picture(*corner, (width, 0.09), heatmaps.colour_scale(200, 18) / 255)
    for share, text in ((0.0, "0"), (0.5, "level"), (1.0, "2×")):
        sheet.text(corner[0] + share * width, corner[1] + 0.13, text, size=SMALL, ha="center", va="top", color=INK)
    note = "outlined: above the level that normal images keep to"
    sheet.text(corner[0] + width + 2 * GAP, corner[1] + 0.045, note, size=SMALL, va="center", color=MUTED)


def _verdict(sheet: Canvas, example: Example, left: float, middle: float, room: float = 3.0) -> None:
    color, word, sign = (ANOMALY, "▲ anomaly", ">") if example.label else (NORMAL, "● normal", "≤")
    sheet.text(left, middle - 0.32, word, size=11, weight="bold", color=color, va="center")
    if example.mistake:
        sheet.text(left + 1.08, middle - 0.32, f"✗ wrong: {example.mistake}", size=10, weight="bold", va="center")
    elif example.truth is not None:
        sheet.text(left + 1.08, middle - 0.32, "✓ right", color=MUTED, va="center")
    score = f"score {format_score(example.score)} {sign} threshold {format_score(example.threshold)}"
    sheet.text(left, middle - 0.08, score, room, va="center")
    if example.kind:
        sheet.text(left, middle + 0.13, f"it is: {example.kind}", room, va="center")
    sheet.text(left, middle + 0.34, example.name, room, SMALL, color=MUTED, va="center")


def _bins(scores: Mapping[str, Floats], thresholds: Sequence[float], normal: str) -> tuple[Floats, bool, bool]:
    """Edges of the histogram's bars; whether they are logarithmic; whether there are scores beyond them.

    A logarithmic axis needs positive normal scores, and is taken where the largest score is over ten times their
    median. A linear one reaches 10 times the normal scores' spread above the last threshold, 3 times below them.
    """
    everything = np.concatenate([*scores.values(), np.asarray(thresholds, dtype=np.float64)])
    finite = everything[np.isfinite(everything)]
    usual = scores[normal][np.isfinite(scores[normal])]
    if not len(usual):
        return np.linspace(0, 1, 41), False, True
    low, middle, high = (float(value) for value in np.quantile(usual, (0.005, 0.5, 0.995)))
    logarithmic = low > 0 and bool(finite.max() > 10 * middle)
    if logarithmic:
        start, end = max(finite.min(), low / 10), finite.max()
    else:
        last = max([high, *(value for value in thresholds if np.isfinite(value))])
        start, end = max(finite.min(), low - 3 * (high - low)), min(finite.max(), last + 10 * (high - low))
    if end <= start:
        start, end = start - 0.5, end + 0.5
    count = int(np.clip(3 * np.sqrt(len(usual)), 40, 80)) + 1
    edges = np.geomspace(start, end, count) if logarithmic else np.linspace(start, end, count)
    return edges, logarithmic, bool(((everything < start) | (everything > end)).any())


def _bars(scores: Floats, edges: Floats) -> Floats:
    """Heights of one kind's bars; the tallest is 0.85 of its row, so that kinds of all sizes can be compared."""
    counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].astype(np.float64)
    heights: Floats = 0.85 * counts / counts.max()
    return heights
