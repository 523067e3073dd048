"""Schedules: epochs, progress and learning rate, with and without a time limit, on a simulated clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from simulated_machine import Machine

from oddlens.config.base import TrainingSettings
from oddlens.training.history import HistoryRow, count_epochs
from oddlens.training.schedule import Pacer, Span, lr_multiplier
from oddlens.training.time_limit import TimeLimit

STEPS = 10  # of an epoch


def history_rows(*progress: float) -> list[HistoryRow]:
    return [{"epoch": i + 1, "loss": 1.0, "progress": p, "seconds": 10.0} for i, p in enumerate(progress)]


def simulate(
    settings: TrainingSettings,
    budget: float,
    monkeypatch: pytest.MonkeyPatch,
    slowness: Callable[[float], float] = lambda now: 1.0,
) -> tuple[list[HistoryRow], float]:
    """The history of a training with steps of a second on a quiet machine, and the time at its end."""
    machine = Machine(slowness)
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    history: list[HistoryRow] = []
    pacer = Pacer(settings, STEPS, TimeLimit(budget, lambda: 0.0), history)
    while (span := pacer.next_epoch(history)) is not None:
        for step in range(1, span.steps + 1):
            machine.work(1.0)
            if pacer.must_stop(span, step):
                break
        share = {} if step == STEPS else {"share": step / STEPS}
        end = span.end if step == span.steps else span.progress(step)
        history.append({"epoch": len(history) + 1, "loss": 1.0, "progress": end, "seconds": 1.0, **share})
    return history, machine.now


def test_a_time_limit_allows_as_many_steps_as_fit_and_ends_the_schedule_there(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=100), 155.0, monkeypatch)
    progress = [row["progress"] for row in history]
    assert (end, count_epochs(history)) == (155.0, 15.5)
    assert progress[-1] == 1.0
    assert all(after > before for before, after in pairwise(progress))


def test_with_time_for_all_epochs_each_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=100), 5000.0, monkeypatch)
    assert (end, len(history), history[-1]["progress"]) == (1000.0, 100, 1.0)
    assert not any("share" in row for row in history)
    assert [row["progress"] for row in history] == pytest.approx([(i + 1) / 100 for i in range(100)])


@pytest.mark.parametrize("moment", [3.0, 50.0, 97.0, 155.0])
@pytest.mark.parametrize("factor", [2.0, 3.0, 5.0])
def test_a_machine_that_becomes_slow_at_any_moment_ends_the_schedule_in_time(
    moment: float, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch too, which is then cut short; late by the last steps at most."""
    history, end = simulate(
        TrainingSettings(epochs=100), 200.0, monkeypatch, lambda now: factor if now > moment else 1.0
    )
    assert history[-1]["progress"] == 1.0
    assert 190 <= end <= 200 + 2 * factor
    assert count_epochs(history) == pytest.approx((moment + (200 - moment) / factor) / STEPS, rel=0.1)


def test_a_machine_that_becomes_quiet_again_trains_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=100), 200.0, monkeypatch, lambda now: 4.0 if now < 100 else 1.0)
    assert 190 <= end <= 202
    assert count_epochs(history) > 11


def test_a_slow_step_now_and_then_cuts_no_epoch_short(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=100), 500.0, monkeypatch, lambda now: 4.0 if now % 50 < 4 else 1.0)
    assert end <= 510
    assert sum("share" in row for row in history) <= 1  # the last one


def test_an_epoch_longer_than_the_time_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=5), 6.5, monkeypatch)
    assert count_epochs(history) == pytest.approx(0.6)
    assert history[-1]["progress"] == 1.0
    assert end == 6.0


def test_without_any_time_a_few_steps_end_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    history, end = simulate(TrainingSettings(epochs=100), -50.0, monkeypatch)
    assert history[-1]["progress"] == 1.0
    assert end <= 6.0


def test_a_resumed_training_plans_with_the_speed_of_its_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    history = history_rows(0.1, 0.2)  # of 10 s each
    span = Pacer(TrainingSettings(epochs=100), STEPS, TimeLimit(40.0, lambda: 0.0), history).next_epoch(history)
    assert span is not None
    assert span == pytest.approx((0.2, 0.4, STEPS))  # the first of four


def test_without_a_limit_progress_is_even() -> None:
    pacer = Pacer(TrainingSettings(epochs=4), STEPS, None, [])
    assert pacer.next_epoch(history_rows(0.25)) == Span(0.25, 0.5, STEPS)
    assert pacer.next_epoch(history_rows(0.25, 0.5, 0.75, 1.0)) is None
    assert pacer.next_epoch(history_rows(0.1, 0.7)) == Span(0.5, 0.75, STEPS)  # of a shorter training before
    assert not pacer.must_stop(Span(0.0, 0.25, STEPS), 1)


def test_a_pace_is_followed_in_place_of_the_epochs_and_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    settings = TrainingSettings(epochs=10, pace=(0.1, 0.7, 1.0), pace_shares=(1.0, 0.3, 0.5))
    pacer = Pacer(settings, STEPS, TimeLimit(-1.0, lambda: 0.0), [])
    assert pacer.next_epoch([]) == Span(0.0, 0.1, 10)
    assert pacer.next_epoch(history_rows(0.1)) == Span(0.1, 0.7, 3)
    assert pacer.next_epoch(history_rows(0.1, 0.7)) == Span(0.7, 1.0, 5)
    assert pacer.next_epoch(history_rows(0.1, 0.7, 1.0)) is None
    assert not pacer.must_stop(Span(0.1, 0.7, 3), 1)


@pytest.mark.parametrize(
    ("schedule", "multipliers"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.9, 0.5, 0]), ("one_cycle", [0, 0.5, 0.625, 0])],
)
def test_schedules_end_where_they_should(schedule: str, multipliers: list[float]) -> None:
    assert [lr_multiplier(schedule, progress) for progress in (0.0, 0.1, 0.5, 1.0)] == pytest.approx(multipliers)
