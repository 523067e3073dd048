"""Tests of the table of what the default detector catches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import default_detector
import pytest
from cells import Cell


def cell(seconds: float, **changes: Any) -> Cell:
    """A cell with only what the table reads."""
    result = {
        "image_auroc": 0.9, "detection_rate": 0.5, "guaranteed_rate": 0.016, "false_alarm_rate_measured": 0.02,
        "detection_rate_at_99": 0.4, "pixel_auroc": None,
    } | changes  # fmt: skip
    return cast(Cell, SimpleNamespace(result=result, fit_seconds=seconds, mark=""))


def test_a_row_has_the_means_of_the_seeds() -> None:
    row = default_detector.row("pill", [cell(20.0), cell(30.0, image_auroc=1.0, detection_rate=1.0)])
    assert row == ("pill", "0.950", "75.0%", "1.6%", "2.0%", "40.0%", "–", "25", "2")


@pytest.mark.parametrize("name", default_detector.SETS)
def test_sets_on_which_settings_were_chosen_are_marked(name: str) -> None:
    is_marked = "settings chosen here" in default_detector.row(name, [cell(1.0)])[0]
    assert is_marked == (name in ("bottle", "ksdd", "tiles"))


def test_a_failed_set_has_an_empty_row() -> None:
    assert default_detector.row("pill", [])[1:3] == ("–", "–")
