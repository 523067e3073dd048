"""The leaderboard of `oddlens compare`, as a table and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oddlens.evaluation.compare import LeaderboardRow
from oddlens.reporting.canvas import BODY, INK, MARGIN, MUTED, NORMAL, RULE, SMALL, Canvas, label_axes
from oddlens.reporting.html import Table, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def leaderboard_table(result: dict[str, Any]) -> Table:
    """Return the leaderboard of a `compare` result as a table."""
    rows = result["leaderboard"]
    masks = any(row.get("pixel_auroc") is not None for row in rows)
    columns = ("detector", "caught at rate", "false alarms", "caught (99)", "AUROC", "95% CI")
    columns += (*(("pixel AUROC", "AUPRO") if masks else ()), "fit (s)", "ms/image", "MB")
    return Table(columns, tuple(leaderboard_cells(row, masks) for row in rows))


def leaderboard_cells(row: LeaderboardRow, masks: bool) -> tuple[Value, ...]:
    """Format one row of the table; `masks` adds the columns of pixel metrics."""
    name = row["detector"] + (" (baseline)" if row["baseline"] else "")
    if row["error"] is not None:
        return (name, "failed", None, None, None, None, *((None, None) if masks else ()), None, None, None)
    interval, rates = row["image_auroc_ci"], (row["false_alarm_rate_measured"], row["detection_rate_at_99"])
    return (
        name,
        caught_at_rate(row),
        *(None if rate is None else f"{rate:.1%}" for rate in rates),
        row["image_auroc"],
        None if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
        *((row["pixel_auroc"], row["aupro"]) if masks else ()),
        f"{row['seconds']['fit']:.1f}",
        f"{row['score_ms']:.3g}",
        f"{row['model_bytes'] / 1e6:.2f}",
    )


def caught_at_rate(row: LeaderboardRow) -> str | None:
    """Format the share of anomalies that are caught, and the guaranteed rate; None without anomalies."""
    caught, guaranteed = row["detection_rate"], row["guaranteed_rate"]
    return None if caught is None else f"{caught:.1%} at {guaranteed:.2%}"


def draw_leaderboard(result: dict[str, Any]) -> Figure:
    """Draw what each detector catches at its guaranteed rate, and its AUROC with the confidence interval.

    The best is on top; baselines have hollow markers.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = result["leaderboard"]
    step, caught, left, top = 0.36, 2.05, 3.45, MARGIN + 0.52
    canvas = Canvas(9.0, top + step * len(rows) + 0.62)
    title = f"{result['data']}, normal: {result['normal']}"
    canvas.text(MARGIN, MARGIN, title, canvas.width - 2 * MARGIN, 11, weight="bold")
    axes = canvas.axes(left, top, 3.05, step * len(rows))
    lowest = min([0.5, *(row["image_auroc_ci"][0] for row in rows if row.get("image_auroc_ci"))])
    axes.set(xlim=(max(0, lowest - 0.03), 1.01), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.axvline(0.5, color=RULE, linewidth=1, linestyle=(0, (4, 2)))
    columns = (left + 3.25, canvas.width - MARGIN, caught)
    headings = ("AUROC (95% CI)", "fit time (s)", "caught at rate")
    for x, heading, align in zip(columns, headings, ("left", "right", "left"), strict=True):
        canvas.text(x, top - 0.06, heading, size=SMALL, color=MUTED, ha=align, va="bottom")
    for index, row in enumerate(rows):
        middle, color = top + (index + 0.5) * step, MUTED if row["baseline"] else INK
        canvas.text(MARGIN, middle, row["detector"], caught - MARGIN - 0.1, BODY, color=color, va="center")
        if row["error"] is not None:
            canvas.text(columns[0], middle, f"failed: {row['error']}", 2.0, SMALL, color=MUTED, va="center")
            continue
        canvas.text(columns[1], middle, f"{row['seconds']['fit']:,.1f}", color=color, ha="right", va="center")
        canvas.text(caught, middle, caught_at_rate(row) or "not measured", color=color, va="center")
        if row["image_auroc"] is None:
            canvas.text(columns[0], middle, "not measured", size=SMALL, color=MUTED, va="center")
            continue
        low, high = row["image_auroc_ci"]
        marker_color, face = (MUTED, "white") if row["baseline"] else (NORMAL, NORMAL)
        axes.plot([low, high], [index, index], color=marker_color, linewidth=2, solid_capstyle="butt")
        axes.plot(row["image_auroc"], index, "o", color=marker_color, markerfacecolor=face, markersize=7, clip_on=False)
        canvas.text(columns[0], middle, f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})", color=color, va="center")
    axes.spines["left"].set_visible(False)
    label_axes(axes, "image AUROC with 95% confidence interval (dashed: chance; hollow: baseline)", "")
    return canvas.figure
