"""The page of a comparison of detectors."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page

from oddlens.evaluation.compare import LeaderboardRow
from oddlens.metrics import rate_interval
from oddlens.reporting.comparison_report import bars_table, write_comparison_report
from oddlens.reporting.html import Share


def row(detector: str, area: float | None, baseline: bool = False, **more: Any) -> LeaderboardRow:
    return {
        "detector": detector, "baseline": baseline, "error": None, "image_auroc": area,
        "image_auroc_ci": None if area is None else [area - 0.04, area + 0.02], "pixel_auroc": None, "aupro": None,
        "false_alarm_rate_measured": 0.02, "detection_rate": 0.5, "guaranteed_rate": 0.0159, "n_anomalous": 40,
        "n_normal_rates": 200, "detection_rate_at_99": 0.5, "seconds": {"fit": 12.34}, "score_ms": 0.4567,
        "model_bytes": 1_234_567, "remarks": ["chosen: <best>"], **more,
    }  # fmt: skip


@pytest.fixture
def result() -> dict[str, Any]:
    failed: LeaderboardRow = {"detector": "auto", "baseline": False, "error": "out of <time>"}
    rows = [row("dictionary", 0.97), row("thumbnails-8", 0.61, baseline=True), failed]
    return {
        "data": "tiles", "normal": "good", "leaderboard": rows, "notes": ["1 mask < 2"], "seed": 0, "budget": None,
        "n_train": 500,
    }  # fmt: skip


def test_the_best_detector_its_baseline_bars_errors_and_remarks_are_on_the_page(
    result: dict[str, Any], tmp_path: Path
) -> None:
    page = Page(write_comparison_report(tmp_path / "c.html", result, "oddlens compare <tiles>"))
    assert page.text["dd"][:4] == ["dictionary", "AUROC 0.970", "50.0%", "at a guaranteed rate of 1.59%"]
    assert "thumbnails-8 (baseline)" in page.text["th"]
    source = html.unescape(page.source)
    for text in ("out of <time>", "chosen: <best>", "1 mask < 2", "oddlens compare <tiles>"):
        assert text in source
    assert "data" not in page.values("id"), "nothing follows a threshold"


def test_bars_have_the_intervals_of_their_rates(result: dict[str, Any]) -> None:
    cells = bars_table(result["leaderboard"]).rows[0]
    caught, flagged, area = cells[1:]
    assert isinstance(caught, Share)
    assert isinstance(flagged, Share)
    assert isinstance(area, Share)
    assert (caught.low, caught.high) == rate_interval(20, 40)
    assert (flagged.low, flagged.high) == rate_interval(4, 200)
    assert (area.low, area.high) == tuple(result["leaderboard"][0]["image_auroc_ci"])


def test_what_was_not_measured_has_no_bar() -> None:
    row_without = row("padim", None, detection_rate=None, n_anomalous=0, false_alarm_rate_measured=None)
    assert bars_table([row_without]).rows == (("padim", None, None, None),)
