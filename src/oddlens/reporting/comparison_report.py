"""The page that reports a comparison of detectors: `oddlens compare --report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oddlens.evaluation.compare import LeaderboardRow
from oddlens.metrics import rate_interval
from oddlens.reporting.evaluation_report import format_area
from oddlens.reporting.evaluation_tables import format_percent
from oddlens.reporting.html import Notice, Report, Section, Share, Table, Tile, Value, write_report
from oddlens.reporting.leaderboard import leaderboard_table

BARS_TEXT = "Bars are shares of the test images and areas under the ROC curve, lines their 95% intervals."


def write_comparison_report(path: Path, result: dict[str, Any], command: str) -> Path:
    """Write the result of `compare` as one HTML file; `command` is listed as its provenance.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    rows = result["leaderboard"]
    remarks = tuple((row["detector"], text) for row in rows for text in row.get("remarks", ()))
    failed = tuple((row["detector"], row["error"]) for row in rows if row["error"] is not None)
    sections = [
        Section("Leaderboard", f"The best is on top. {BARS_TEXT}", table=bars_table(rows)),
        *([Section("Failed", table=Table(("detector", "error"), failed))] if failed else []),
        Section("All figures", table=leaderboard_table(result)),
        *([Section("Remarks", table=Table(("detector", "remark"), remarks))] if remarks else []),
    ]
    budget = result["budget"]
    provenance = (
        ("command", command),
        ("data", result["data"]),
        ("normal", result["normal"]),
        ("training images", f"{result['n_train']:,}"),
        ("seed", str(result["seed"])),
        ("time for each detector", "no limit" if budget is None else f"{budget:g} s"),
    )
    notices = tuple(Notice("note", note) for note in result["notes"])
    title = f"Detectors on {result['data']}"
    return write_report(path, Report(title, "", best_tiles(rows), tuple(sections), provenance, notices))


def best_tiles(rows: list[LeaderboardRow]) -> tuple[Tile, ...]:
    """The best detector that is no baseline, and the best baseline to compare it with."""
    tiles = []
    for name, is_baseline in (("Best detector", False), ("Best baseline", True)):
        best = next((row for row in rows if row["baseline"] == is_baseline and row["error"] is None), None)
        if best is not None:
            area = best["image_auroc"]
            tiles.append(Tile(name, best["detector"], "" if area is None else f"AUROC {area:.3f}"))
            if not is_baseline and best["detection_rate"] is not None:
                caught, rate = format_percent(best["detection_rate"]), best["guaranteed_rate"]
                tiles.append(Tile("Anomalies caught", caught or "", f"at a guaranteed rate of {rate:.2%}"))
    return tuple(tiles)


def bars_table(rows: list[LeaderboardRow]) -> Table:
    """A row for each detector: what it catches and flags, and its AUROC, as bars with intervals."""
    columns = ("detector", "anomalies caught", "normal images flagged", "AUROC")
    return Table(columns, tuple(bar_cells(row) for row in rows if row["error"] is None))


def bar_cells(row: LeaderboardRow) -> tuple[Value, ...]:
    """Format a row of the bars."""
    name, area = row["detector"] + (" (baseline)" if row["baseline"] else ""), row["image_auroc"]
    caught = rate_bar(row["detection_rate"], row["n_anomalous"])
    flagged = rate_bar(row["false_alarm_rate_measured"], row["n_normal_rates"])
    if area is None:
        return name, caught, flagged, None
    low, high = row["image_auroc_ci"]
    return name, caught, flagged, Share(area, low, high, format_area(area, (low, high)) or "")


def rate_bar(rate: float | None, n: int) -> Share | None:
    """A rate among n images as a bar with its interval."""
    if rate is None or not n:
        return None
    low, high = rate_interval(round(rate * n), n)
    return Share(rate, low, high, f"{rate:.1%} ({low:.1%} to {high:.1%})")
