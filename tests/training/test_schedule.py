"""Schedules: progress and learning rate, with and without a deadline."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from oddlens.config.base import TrainingSettings
from oddlens.training.history import HistoryRow
from oddlens.training.schedule import current_progress, lr_multiplier, next_progress


def history_rows(*progress: float, seconds: float = 10.0) -> list[HistoryRow]:
    return [{"epoch": i + 1, "loss": 1.0, "progress": p, "seconds": seconds} for i, p in enumerate(progress)]


def simulate(settings: TrainingSettings, seconds: float, budget: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The progress after each epoch of a training whose epochs take so many seconds, on a simulated clock."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    history: list[HistoryRow] = []
    while (progress := next_progress(history, settings, budget)) is not None:
        now += seconds
        history = history_rows(*[row["progress"] for row in history], progress, seconds=seconds)
    return [row["progress"] for row in history]


def test_a_deadline_allows_as_many_epochs_as_fit_and_ends_the_schedule_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainingSettings(epochs=100)
    progress = simulate(settings, seconds=10.0, budget=155.0, monkeypatch=monkeypatch)
    assert len(progress) == 15
    assert progress[-1] == 1.0
    assert all(after > before for before, after in pairwise(progress))
    assert simulate(settings, seconds=10.0, budget=5000.0, monkeypatch=monkeypatch)[-1] == 1.0
    assert len(simulate(settings, seconds=10.0, budget=5000.0, monkeypatch=monkeypatch)) == 100


def test_a_deadline_that_has_passed_ends_with_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(simulate(TrainingSettings(epochs=100), seconds=10.0, budget=1.0, monkeypatch=monkeypatch)) == 2


def test_without_a_deadline_progress_is_even() -> None:
    settings = TrainingSettings(epochs=4)
    assert next_progress(history_rows(0.25), settings, float("inf")) == 0.5
    assert next_progress(history_rows(0.25, 0.5, 0.75, 1.0), settings, float("inf")) is None


def test_a_pace_is_followed_in_place_of_the_epochs() -> None:
    settings = TrainingSettings(epochs=10, pace=(0.1, 0.7, 1.0))
    assert next_progress([], settings, float("inf")) == 0.1
    assert next_progress(history_rows(0.1), settings, float("inf")) == 0.7
    assert next_progress(history_rows(0.1, 0.7, 1.0), settings, float("inf")) is None


def test_progress_so_far_is_that_of_the_last_row_or_relative_to_the_epochs() -> None:
    rows = history_rows(0.1, 0.7)
    assert current_progress(rows, TrainingSettings(epochs=8), float("inf")) == 0.25
    assert current_progress(rows, TrainingSettings(epochs=8), 100.0) == 0.7
    assert current_progress(rows, TrainingSettings(pace=(0.1, 0.7, 1.0)), float("inf")) == 0.7
    assert current_progress([], TrainingSettings(), 100.0) == 0.0


@pytest.mark.parametrize(
    ("schedule", "multipliers"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.9, 0.5, 0]), ("one_cycle", [0, 0.5, 0.625, 0])],
)
def test_schedules_end_where_they_should(schedule: str, multipliers: list[float]) -> None:
    assert [lr_multiplier(schedule, progress) for progress in (0.0, 0.1, 0.5, 1.0)] == pytest.approx(multipliers)
