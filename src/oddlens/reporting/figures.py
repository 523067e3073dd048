"""Figures of scores and losses: score histograms, ROC, training and drift curves.

Every function returns a matplotlib `Figure` that belongs to no window and no pyplot state; `save_figure` writes it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.io.atomic import write_bytes
from oddlens.io.own_files import PNG_METADATA
from oddlens.metrics import auroc
from oddlens.reporting.canvas import (
    ANOMALY,
    CURVES,
    DASHES,
    INK,
    MARGIN,
    MUTED,
    NORMAL,
    RULE,
    SAVED_DPI,
    SMALL,
    Canvas,
    Floats,
    add_legend,
    format_score,
    label_axes,
    require_data,
    scale_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def score_histogram(scores: Mapping[str, Floats], thresholds: Mapping[str, float], normal: str) -> Figure:
    """Draw a histogram for each kind on a shared axis, with the outline of that of the normal images over it.

    `scores` has (n,) scores for each kind; `normal` is the kind of the normal images. Kinds are sorted by median score,
    the hardest to detect first. The percentages at the right are the shares above the first of `thresholds`. Scores
    that span orders of magnitude get a logarithmic axis; outliers are gathered in the outermost bars.

    Raises:
        DataError: there are no scores of normal images.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(scores.get(normal, ())), "scores of normal images")
    others = [kind for kind in scores if kind != normal and len(scores[kind])]
    kinds = [normal, *sorted(others, key=lambda kind: float(np.median(scores[kind])))]
    height = 0.72 if len(kinds) <= 4 else 0.44
    left, right, top = 1.9, 0.85, MARGIN + 0.22 * len(thresholds) + 0.1
    canvas = Canvas(7.4, top + height * len(kinds) + 0.62)
    axes = canvas.axes(left, top, canvas.width - left - right, height * len(kinds))
    edges, logarithmic, clipped = _bins(scores, list(thresholds.values()), normal)
    for index, kind in enumerate(kinds):
        color, base = NORMAL if kind == normal else ANOMALY, len(kinds) - 1 - index
        axes.stairs(_bars(scores[kind], edges) + base, edges, baseline=base, fill=True, color=color, alpha=0.75)
        axes.stairs(_bars(scores[normal], edges) + base, edges, baseline=base, color=NORMAL, linewidth=0.8)
        axes.axhline(base, color=RULE, linewidth=1)
        middle = top + (index + 0.6) * height
        canvas.text(MARGIN, middle, kind, left - MARGIN - 0.1, weight="bold", color=color, va="bottom")
        canvas.text(MARGIN, middle + 0.01, f"{len(scores[kind]):,} images", size=SMALL, color=MUTED)
        for value in list(thresholds.values())[:1]:
            share = f"{np.mean(scores[kind] > value):.1%}"
            canvas.text(canvas.width - MARGIN, middle, share, weight="bold", color=color, ha="right", va="center")
    _mark_thresholds(canvas, axes, top, thresholds)
    axes.set(ylim=(0, len(kinds)), yticks=[], xlim=(edges[0], edges[-1]))
    axes.spines["left"].set_visible(False)
    scale_axis(axes, "x", float(edges[-1] / edges[0]) if logarithmic else 0)
    notes = ["logarithmic"] * logarithmic + ["outliers in the outermost bars"] * clipped
    label_axes(axes, "anomaly score" + (f" ({'; '.join(notes)})" if notes else ""), "")
    return canvas.figure


def _mark_thresholds(canvas: Canvas, axes: Axes, top: float, thresholds: Mapping[str, float]) -> None:
    """Draw a line for each threshold of a histogram, with a legend, and the heading of the percentages."""
    if thresholds:
        heading = "flagged" if len(thresholds) == 1 else "over solid line"
        canvas.text(canvas.width - MARGIN, top - 0.05, heading, size=SMALL, ha="right", va="bottom", color=MUTED)
    lines = [
        axes.axvline(x, color=INK, linewidth=1.2, linestyle=DASHES[i % 3]) for i, x in enumerate(thresholds.values())
    ]
    labels = [canvas.fit(f"threshold {format_score(value)} ({name})", 3.8) for name, value in thresholds.items()]
    add_legend(axes, lines, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.3)


def roc_curves(
    curves: Mapping[str, tuple[npt.ArrayLike, Floats]], points: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """Draw ROC curves with their AUROC in the legend, and the operating points of decisions.

    `curves` has (labels, scores) for each name, with labels 0 normal and 1 anomalous. `points` has the measured
    (false-alarm rate, detection rate) of each decision. They exclude images that a threshold was computed from, so they
    can lie slightly off a curve over all images.

    Raises:
        DataError: there are no curves, or one has no normal or no anomalous images.
        MissingExtraError: matplotlib or scikit-learn is not installed.
    """
    require_data(len(curves), "curves")
    points = points or {}
    areas = {name: auroc(*curve) for name, curve in curves.items()}
    from sklearn.metrics import roc_curve

    canvas = Canvas(7.4, max(4.2, 0.6 + 0.2 * (len(curves) + len(points))))
    axes = canvas.axes(0.65, MARGIN, 3.4, 3.4)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, linestyle=DASHES[1])
    handles, labels = [], []
    for index, (name, (truth, scores)) in enumerate(curves.items()):
        ranks = np.unique(scores, return_inverse=True)[1]  # gives the same curve; scikit-learn rejects infinite scores
        false_alarms, detections, _ = roc_curve(truth, ranks)
        color, dash = CURVES[index % len(CURVES)], DASHES[index // len(CURVES) % 3]
        handles += axes.plot(false_alarms, detections, color=color, linewidth=1.8, linestyle=dash)
        labels.append(f"{areas[name]:.3f}  {canvas.fit(name, 2.1)}")
    for marker, (decision, (x, y)) in zip(cycle("oDs"), points.items(), strict=False):
        handles += axes.plot(x, y, marker, color=INK, markersize=7, markeredgecolor="white", clip_on=False, zorder=5)
        labels.append(canvas.fit(f"caught {y:.1%} at {x:.1%} ({decision})", 2.6))
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    label_axes(axes, "false-alarm rate (share of normal images flagged)", "detection rate (share of anomalies flagged)")
    title = "AUROC; share caught at false-alarm rate" if points else "AUROC"
    add_legend(axes, handles, labels, loc="upper left", bbox_to_anchor=(1.04, 1.03), title=title)
    return canvas.figure


def training_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the losses of a training history over its epochs: rows {"epoch": 1, "loss": 0.03, "seconds": 2.1, ...}.

    Raises:
        DataError: the history is empty.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(history), "epochs")
    canvas = Canvas(7.4, 3.2)
    axes = canvas.axes(0.85, MARGIN + 0.3, 6.2, 2.15)
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
    add_legend(
        axes,
        handles,
        [canvas.fit(name.replace("_", " "), 1.3) for name in names],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
    )
    seconds = sum(row.get("seconds", 0.0) for row in history)
    note = f"{len(history)} epoch{'s' * (len(history) > 1)}" + (f" in {seconds:,.3g} s" if seconds else "")
    canvas.text(7.05, MARGIN + 0.18, note, color=MUTED, ha="right", va="bottom")
    label_axes(axes, "epoch", "loss")
    return canvas.figure


def drift_curve(evidence: Sequence[float], limit: float, alarm: int | None) -> Figure:
    """Draw the evidence for drift, (N,) log10 of the test martingale after each image, and the limit of the alarm.

    `alarm` is the index of the image that raised the alarm, or None.

    Raises:
        DataError: there are no images.
        MissingExtraError: matplotlib is not installed.
    """
    require_data(len(evidence), "images")
    canvas = Canvas(7.4, 3.2)
    axes = canvas.axes(0.85, MARGIN + 0.3, 6.2, 2.15)
    numbers = np.arange(1, len(evidence) + 1)
    lines = [axes.plot(numbers, evidence, color=NORMAL, linewidth=1.4)[0]]
    lines.append(axes.axhline(limit, color=INK, linewidth=1.2, linestyle=DASHES[1]))
    names = ["evidence", f"alarm at {limit:.3g}"]
    if alarm is not None:
        lines += axes.plot(alarm + 1, evidence[alarm], "o", color=ANOMALY, markersize=7, markeredgecolor="white")
        names.append(f"raised at image {alarm + 1:,}")
    axes.set_xlim(0.5, len(evidence) + 0.5)
    axes.set_ylim(min(*evidence, 0.0) - 0.3, max(*evidence, limit) + 0.4)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    add_legend(axes, lines, names, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3)
    label_axes(axes, "image of the stream", "evidence for drift (log10)")
    return canvas.figure


def render(figure: Figure) -> bytes:
    """Draw a figure as PNG; `data.open_images` recognizes it as no photograph by its text chunk."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SAVED_DPI, facecolor="white", metadata=PNG_METADATA)
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, with two pixels for each nominal one; the file is complete or does not exist.

    Raises:
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, render(figure))


def _bins(scores: Mapping[str, Floats], thresholds: Sequence[float], normal: str) -> tuple[Floats, bool, bool]:
    """Return the edges of the bins, whether they are logarithmic, and whether scores lie beyond them."""
    axis = score_axis(np.concatenate(list(scores.values())), scores[normal], thresholds)
    count = int(np.clip(3 * np.sqrt(len(scores[normal])), 40, 80)) + 1
    space = np.geomspace if axis.logarithmic else np.linspace
    return space(axis.low, axis.high, count), axis.logarithmic, axis.clipped


class ScoreAxis(NamedTuple):
    """The ends of an axis of scores, whether it is logarithmic, and whether scores lie beyond its ends."""

    low: float
    high: float
    logarithmic: bool
    clipped: bool


def score_axis(scores: Floats, normal_scores: Floats, thresholds: Sequence[float]) -> ScoreAxis:
    """Return the axis on which to draw scores (N,), of which or beside which there are those of normal images (n,).

    The axis is logarithmic if the normal scores are positive and the largest score is over ten times their median. A
    linear one extends from 3 times the spread of the normal scores below them to 10 times above the last threshold.
    """
    values = np.concatenate([scores, normal_scores, np.asarray(thresholds, dtype=np.float64)])
    finite, normal_scores = values[np.isfinite(values)], normal_scores[np.isfinite(normal_scores)]
    if not len(normal_scores):
        return ScoreAxis(0.0, 1.0, False, True)
    low, median, high = (float(value) for value in np.quantile(normal_scores, (0.005, 0.5, 0.995)))
    logarithmic = low > 0 and bool(finite.max() > 10 * median)
    if logarithmic:
        start, end = max(finite.min(), low / 10), finite.max()
    else:
        last = max([high, *(value for value in thresholds if np.isfinite(value))])
        start, end = max(finite.min(), low - 3 * (high - low)), min(finite.max(), last + 10 * (high - low))
    if end <= start:
        start, end = start - 0.5, end + 0.5
    return ScoreAxis(float(start), float(end), logarithmic, bool(((values < start) | (values > end)).any()))


def _bars(scores: Floats, edges: Floats) -> Floats:
    """Return the heights of one kind's bars; the tallest is 0.85 of its row, so that kinds of any size compare."""
    counts = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0].astype(np.float64)
    heights: Floats = 0.85 * counts / counts.max()
    return heights
