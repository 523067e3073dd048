"""Checkpoints: an interrupted run continues to bitwise the same result, and never from another run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import CPU, POOLING, SPEC, STRIDED, flat_weights, train_small

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.errors import TrainingError
from oddlens.models import registry
from oddlens.training import checkpoints
from oddlens.training.history import TrainingStep
from oddlens.training.optim import Adam


@pytest.mark.parametrize("settings", [STRIDED, POOLING], ids=["strided", "pooling"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    settings: AutoencoderSettings, digit_pixels: Pixels, tmp_path: Path
) -> None:
    whole = flat_weights(train_small(digit_pixels, settings=settings))
    train_small(digit_pixels, tmp_path, epochs=2, settings=settings)
    steps: list[TrainingStep] = []
    resumed = train_small(digit_pixels, tmp_path, resume=True, settings=settings, progress=steps.append)
    assert {step.epoch for step in steps} == {3, 4}
    np.testing.assert_array_equal(flat_weights(resumed), whole)


def test_a_checkpoint_that_is_cut_short_falls_back_to_the_one_before(digit_pixels: Pixels, tmp_path: Path) -> None:
    pixels = digit_pixels[:200]
    whole = flat_weights(train_small(pixels))
    train_small(pixels, tmp_path, epochs=3)
    newest = checkpoints.list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    np.testing.assert_array_equal(flat_weights(train_small(pixels, tmp_path, resume=True)), whole)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(digit_pixels: Pixels, tmp_path: Path) -> None:
    whole = flat_weights(train_small(digit_pixels[:200]))
    train_small(digit_pixels[:200], tmp_path, epochs=3)
    newest = checkpoints.list_checkpoints(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 0x40
    newest.write_bytes(content)
    np.testing.assert_array_equal(flat_weights(train_small(digit_pixels[:200], tmp_path, resume=True)), whole)


def test_the_last_two_checkpoints_stay_and_the_history_is_complete(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=5)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "epoch-000004.safetensors",
        "epoch-000005.safetensors",
    ]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["loss"] > 0 and row["seconds"] >= 0 for row in rows)


@pytest.mark.parametrize("change", ["settings", "images"])
def test_a_checkpoint_of_another_run_is_refused(digit_pixels: Pixels, tmp_path: Path, change: str) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=1)
    images, rate = (digit_pixels[:100], 0.01) if change == "settings" else (digit_pixels[1:101], 0.001)
    with pytest.raises(TrainingError, match="other settings or other images"):
        train_small(images, tmp_path, resume=True, learning_rate=rate)


def test_without_resume_old_checkpoints_are_not_used(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=2, seed=1)
    np.testing.assert_array_equal(
        flat_weights(train_small(digit_pixels[:100], tmp_path, epochs=2)),
        flat_weights(train_small(digit_pixels[:100], epochs=2)),
    )


def test_a_new_run_in_an_old_folder_removes_the_old_one(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=5)
    train_small(digit_pixels[:100], tmp_path, epochs=1, learning_rate=0.01)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["epoch-000001.safetensors"]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_resuming_with_fewer_epochs_than_were_done_is_refused(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=3)
    with pytest.raises(TrainingError, match="has 3 epochs and 2 were requested"):
        train_small(digit_pixels[:100], tmp_path, epochs=2, resume=True)


def test_resuming_a_finished_run_restores_a_lost_history(digit_pixels: Pixels, tmp_path: Path) -> None:
    train_small(digit_pixels[:100], tmp_path, epochs=3)
    (tmp_path / "history.jsonl").unlink()
    train_small(digit_pixels[:100], tmp_path, epochs=3, resume=True)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3


def test_a_finished_run_can_be_resumed_for_more_epochs(digit_pixels: Pixels, tmp_path: Path) -> None:
    """Also when they are not a multiple: the progress of the earlier rows belongs to a shorter training."""
    train_small(digit_pixels, tmp_path, epochs=3)
    train_small(digit_pixels, tmp_path, epochs=4, resume=True, progress=lambda step: None)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]


def test_another_number_of_epochs_is_another_run_where_the_learning_rate_falls(
    digit_pixels: Pixels, tmp_path: Path
) -> None:
    train_small(digit_pixels, tmp_path, epochs=2, schedule="linear")
    with pytest.raises(TrainingError, match="other settings"):
        train_small(digit_pixels, tmp_path, epochs=3, schedule="linear", resume=True)


def test_a_run_is_identified_by_its_model_images_region_and_training(digit_pixels: Pixels) -> None:
    def identify(
        pixels: Pixels = digit_pixels[:20],
        settings: AutoencoderSettings = STRIDED,
        roi: bool = False,
        **changes: object,
    ) -> str:
        model = registry.build(settings, SPEC, 0)
        if roi:
            model.set_roi(np.tri(8, dtype=bool))
        return checkpoints.run_digest(model, pixels, TrainingSettings().model_copy(update=changes))

    runs = [
        identify(), identify(digit_pixels[1:21]), identify(settings=POOLING), identify(roi=True), identify(seed=1),
        identify(schedule="linear"), identify(schedule="linear", epochs=3),
    ]  # fmt: skip
    assert len(set(runs)) == len(runs)
    assert identify(epochs=3) == identify()  # a constant learning rate can go on for longer


def test_a_checkpoint_restores_weights_optimizer_and_history(tmp_path: Path) -> None:
    history = [{"epoch": 1.0, "loss": 0.5, "progress": 1.0, "seconds": 0.1}]
    models = [registry.build(STRIDED, SPEC, seed).to(CPU) for seed in (0, 1)]
    optimizers = [Adam(model.parameters(), lr=0.1) for model in models]
    optimizers[0].states[0]["exp_avg"].fill_(3.0)
    checkpoints.save_checkpoint(tmp_path, models[0], optimizers[0], "run", history)
    assert checkpoints.load_checkpoint(tmp_path, models[1], optimizers[1], "run", 1) == history
    np.testing.assert_array_equal(flat_weights(models[0]), flat_weights(models[1]))
    assert torch.equal(optimizers[1].states[0]["exp_avg"], optimizers[0].states[0]["exp_avg"])


def test_a_folder_without_checkpoints_has_no_history(tmp_path: Path) -> None:
    model = registry.build(STRIDED, SPEC, 0)
    assert checkpoints.load_checkpoint(tmp_path, model, Adam(model.parameters(), lr=0.1), "run", 5) == []
