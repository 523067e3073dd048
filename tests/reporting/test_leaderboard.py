"""The leaderboard as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_checks import assert_nothing_overlaps, render, texts

from oddlens.evaluation.compare import LeaderboardRow
from oddlens.reporting.leaderboard import draw_leaderboard, leaderboard_table


def row(detector: str, area: float, baseline: bool = False, aupro: float | None = None) -> LeaderboardRow:
    return {
        "detector": detector, "baseline": baseline, "error": None, "image_auroc": area,
        "image_auroc_ci": [area - 0.04, area + 0.02], "pixel_auroc": aupro, "aupro": aupro,
        "false_alarm_rate_measured": 0.012, "detection_rate": None, "guaranteed_rate": 0.0159,
        "detection_rate_at_99": 0.5, "seconds": {"fit": 12.34}, "score_ms": 0.4567,
        "model_bytes": 1_234_567,
    }  # fmt: skip


@pytest.fixture
def result() -> dict[str, Any]:
    failed: LeaderboardRow = {"detector": "auto", "baseline": False, "error": "out of time"}
    rows = [row("dictionary", 0.97), row("thumbnails-32-normalised", 0.61, baseline=True), failed]
    return {"data": "tiles", "normal": "good", "leaderboard": rows}


def test_the_table_has_every_row_with_a_cell_per_column(result: dict[str, Any]) -> None:
    table = leaderboard_table(result)
    assert {len(cells) for cells in table.rows} == {len(table.columns)}
    assert table.rows[0] == (
        "dictionary", None, "1.2%", "50.0%", 0.97, "0.930 to 0.990", "12.3", "0.457", "1.23",
    )  # fmt: skip
    assert table.rows[1][0] == "thumbnails-32-normalised (baseline)"
    assert table.rows[2][:3] == ("auto", "failed", None)


def test_a_detector_without_an_auroc_has_its_rates(result: dict[str, Any]) -> None:
    result["leaderboard"][0] |= {"image_auroc": None, "image_auroc_ci": None}
    assert leaderboard_table(result).rows[0][:5] == ("dictionary", None, "1.2%", "50.0%", None)
    figure = draw_leaderboard(result)
    assert {"dictionary", "not measured", "12.3"} <= set(texts(figure))
    assert_nothing_overlaps(figure)


def test_the_figure_says_what_is_caught_at_which_rate(result: dict[str, Any]) -> None:
    result["leaderboard"][0] |= {"detection_rate": 0.875}
    figure = draw_leaderboard(result)
    assert {"caught at rate", "87.5% at 1.59%"} <= set(texts(figure))
    assert leaderboard_table(result).rows[0][1] == "87.5% at 1.59%"
    assert_nothing_overlaps(figure)


def test_pixel_metrics_have_columns_if_a_row_has_them(result: dict[str, Any]) -> None:
    assert "AUPRO" not in leaderboard_table(result).columns
    result["leaderboard"][0] = row("dictionary", 0.97, aupro=0.8)
    table = leaderboard_table(result)
    place = table.columns.index("AUPRO")
    assert [cells[place] for cells in table.rows] == [0.8, None, None]
    assert {len(cells) for cells in table.rows} == {len(table.columns)}


def test_the_figure_has_an_interval_per_detector_and_the_error_of_a_failed_one(
    result: dict[str, Any], tmp_path: Path
) -> None:
    figure = draw_leaderboard(result)
    labels = texts(figure)
    assert {"dictionary", "thumbnails-32-normalised", "auto", "failed: out of time"} <= set(labels)  # none shortened
    assert "0.970 (0.930–0.990)" in labels
    intervals = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines if line.get_linewidth() == 2]
    np.testing.assert_allclose(intervals, [[0.93, 0.99], [0.57, 0.63]])
    faces = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [face == "white" for face in faces] == [False, True], "only the baseline is hollow"
    assert_nothing_overlaps(figure)
    assert render(figure, tmp_path).std() > 5


def test_intervals_below_chance_extend_the_axis(result: dict[str, Any]) -> None:
    assert draw_leaderboard(result).axes[0].get_xlim()[0] == pytest.approx(0.47)
    result["leaderboard"].append(row("transforms", 0.3))
    assert draw_leaderboard(result).axes[0].get_xlim()[0] == pytest.approx(0.23)
