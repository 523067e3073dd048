"""What `oddlens compare` shows of its result: the table and the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oddlens.reporting.canvas import BODY, INK, MARGIN, MUTED, NORMAL, RULE, SMALL, Canvas, label_axes
from oddlens.reporting.html import Table, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]  # one detector of the result's `leaderboard`


def table(result: dict[str, Any]) -> Table:
    """The leaderboard to read."""
    rows = result["leaderboard"]
    masks = any(row.get("pixel_auroc") is not None for row in rows)
    columns = ("detector", "AUROC", "95% interval", *(("pixel AUROC", "AUPRO") if masks else ()))
    columns += ("false alarms", "caught", "fit s", "ms/image", "MB")
    return Table(columns, tuple(cells(row, masks) for row in rows))


def cells(row: Row, masks: bool) -> tuple[Value, ...]:
    """One row of the table."""
    name = row["detector"] + (" (baseline)" if row["baseline"] else "")
    if row["error"] is not None:
        return (name, None, "failed", *((None, None) if masks else ()), None, None, None, None, None)
    low, high = row["image_auroc_ci"]
    rates = (row["false_alarm_rate_measured"], row["detection_rate"])
    return (
        name,
        row["image_auroc"],
        f"{low:.3f} to {high:.3f}",
        *((row["pixel_auroc"], row["aupro"]) if masks else ()),
        *(None if rate is None else f"{rate:.1%}" for rate in rates),
        f"{row['seconds']['fit']:.1f}",
        f"{row['score_ms']:.3g}",
        f"{row['model_bytes'] / 1e6:.2f}",
    )


def leaderboard(result: dict[str, Any]) -> Figure:
    """Draw each detector's AUROC with its interval, the best on top; baselines are hollow.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = result["leaderboard"]
    step, left, top = 0.36, 2.05, MARGIN + 0.52
    sheet = Canvas(7.6, top + step * len(rows) + 0.62)
    asked = f"{result['data']}, normal: {result['normal']}"
    sheet.text(MARGIN, MARGIN, asked, sheet.width - 2 * MARGIN, 11, weight="bold")
    axes = sheet.axes(left, top, 3.05, step * len(rows))
    lowest = min([0.5, *(row["image_auroc_ci"][0] for row in rows if row["error"] is None)])
    axes.set(xlim=(max(0, lowest - 0.03), 1.01), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.axvline(0.5, color=RULE, linewidth=1, linestyle=(0, (4, 2)))
    places = (left + 3.25, sheet.width - MARGIN)
    for place, title, side in zip(places, ("AUROC (95%)", "seconds of fitting"), ("left", "right"), strict=True):
        sheet.text(place, top - 0.06, title, size=SMALL, color=MUTED, ha=side, va="bottom")
    for number, row in enumerate(rows):
        middle, color = top + (number + 0.5) * step, MUTED if row["baseline"] else INK
        sheet.text(MARGIN, middle, row["detector"], left - MARGIN - 0.1, BODY, color=color, va="center")
        if row["error"] is not None:
            sheet.text(places[0], middle, f"failed: {row['error']}", 2.0, SMALL, color=MUTED, va="center")
            continue
        low, high = row["image_auroc_ci"]
        shade, face = (MUTED, "white") if row["baseline"] else (NORMAL, NORMAL)
        axes.plot([low, high], [number, number], color=shade, linewidth=2, solid_capstyle="butt")
        axes.plot(row["image_auroc"], number, "o", color=shade, markerfacecolor=face, markersize=7, clip_on=False)
        figures = f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})"
        sheet.text(places[0], middle, figures, size=BODY, color=color, va="center")
        sheet.text(places[1], middle, f"{row['seconds']['fit']:,.1f}", size=BODY, color=color, ha="right", va="center")
    axes.spines["left"].set_visible(False)
    label_axes(axes, "image AUROC with its 95% interval (dashed: chance; hollow: baseline)", "")
    return sheet.figure
