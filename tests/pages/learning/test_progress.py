"""The progress of a job: shares of phases, and the time left where it can be said."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from oddlens.errors import DiskFullError
from oddlens.pages.learning import progress as module
from oddlens.pages.learning.progress import Progress
from oddlens.training.history import TrainingStep

PHASES = {"reading": 0.1, "training": 0.8, "reporting": 0.1}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_share_adds_up_over_phases_and_epochs(tmp_path: Path, clock: list[float]) -> None:
    progress = Progress(tmp_path, PHASES)
    progress.begin("reading", "reading 3 images")
    assert progress.values() == {
        "phase": "reading", "share": 0, "seconds": 0, "seconds_left": None, "message": "reading 3 images",
    }  # fmt: skip
    progress.begin("training")
    progress.training(TrainingStep(1, 4, 5, 10, 0.5, "padim"))
    clock[0] += 10
    assert progress.values()["seconds_left"] is None, "one report is no rate"
    progress.training(TrainingStep(3, 4, 10, 10, 0.25, "padim"))
    values = progress.values()
    assert (values["share"], values["seconds"]) == (pytest.approx(0.1 + 0.8 * 0.75), 10)
    assert values["seconds_left"] == pytest.approx(10 * 0.25 / 0.625, abs=0.05)
    assert values["message"] == "padim epoch 3 of 4, loss 0.25"
    progress.begin("reporting")
    assert progress.values()["share"] == pytest.approx(0.9)


def test_a_resumed_training_does_not_count_what_was_done_before_as_fast(tmp_path: Path, clock: list[float]) -> None:
    progress = Progress(tmp_path, PHASES)
    progress.begin("training")
    progress.advance(90, 100)
    clock[0] += 10
    progress.advance(95, 100)
    assert progress.values()["seconds_left"] == 10


def test_with_a_budget_the_time_left_is_that_of_the_budget_and_never_below_zero(
    tmp_path: Path, clock: list[float]
) -> None:
    progress = Progress(tmp_path, PHASES)
    progress.begin("training", budget=40.0)
    clock[0] += 10
    assert (progress.values()["share"], progress.values()["seconds_left"]) == (pytest.approx(0.3), 30)
    clock[0] += 100
    assert (progress.values()["share"], progress.values()["seconds_left"]) == (pytest.approx(0.892), 0)


def test_the_file_is_written_while_the_work_goes_on_and_at_its_end(tmp_path: Path) -> None:
    progress = Progress(tmp_path, PHASES)
    with progress.reporting():
        progress.begin("reporting", "last words <b>")
    values: dict[str, Any] = json.loads((tmp_path / "progress.json").read_text())
    assert (values["phase"], values["message"], values["version"]) == ("reporting", "last words <b>", 1)


def test_a_full_disk_does_not_end_the_work_by_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, values: object) -> None:
        raise DiskFullError("full")

    monkeypatch.setattr(module, "write_json", fail)
    with Progress(tmp_path, PHASES).reporting():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_was_lost_ends_the_work_at_its_next_report(tmp_path: Path) -> None:
    progress = Progress(tmp_path, PHASES)
    progress.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        progress.advance(1, 2)
    with pytest.raises(KeyboardInterrupt):
        progress.begin("training")
