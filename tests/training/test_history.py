"""The training history: one JSON line an epoch, and progress reports."""

from __future__ import annotations

import json
from pathlib import Path

from small_training import CPU, SPEC, train_small

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.models import registry
from oddlens.training import history, loop
from oddlens.training.history import HistoryRow, TrainingStep, write_history


def test_the_history_is_saved_as_json_lines(tmp_path: Path) -> None:
    rows: list[HistoryRow] = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    write_history(tmp_path, rows)
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == rows
    write_history(tmp_path, [])
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_each_epoch_has_a_row_with_its_loss_progress_and_seconds(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=5)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["progress"] for row in rows] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert all(row["loss"] > 0 and row["seconds"] >= 0 for row in rows)


def test_progress_counts_up_to_the_end(digit_pixels: Pixels) -> None:
    steps: list[TrainingStep] = []
    model = registry.build(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC, 0)
    loop.train(model, digit_pixels[:100], TrainingSettings(epochs=2, batch_size=10), CPU, progress=steps.append)
    assert (steps[-1].epoch, steps[-1].epochs, steps[-1].step, steps[-1].steps) == (2, 2, 10, 10)
    assert {step.family for step in steps} == {"autoencoder"}


def test_reports_count_the_steps_of_an_epoch_that_draws_some_of_the_images(digit_pixels: Pixels) -> None:
    steps: list[TrainingStep] = []
    train_small(digit_pixels, epochs=2, epoch_images=70, progress=steps.append)
    assert {step.steps for step in steps} == {3}  # 32 + 32 + 6


def test_epochs_that_were_cut_short_count_by_their_share() -> None:
    whole = {"epoch": 1.0, "loss": 1.0, "progress": 0.5, "seconds": 1.0}
    assert history.count_epochs([]) == 0
    assert history.count_epochs([whole, whole, {**whole, "share": 0.25}]) == 2.25
    assert not history.TrainingRecord("rotation", 2.25, 3, 1.0).complete
    assert history.TrainingRecord("rotation", 3.0, 3, 1.0).complete
