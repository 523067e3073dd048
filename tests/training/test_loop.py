"""Training: seeded, resumable to the bit, and it says when it breaks down."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.config.parse import parse
from oddlens.data.image_io import Pixels
from oddlens.errors import SettingsError, TrainingError
from oddlens.inference.torch_backend import resolve_device
from oddlens.models import base, registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.training import checkpoints, history, loop
from oddlens.training.schedule import lr_multiplier, next_progress

SPEC = InputSpec(height=8, width=8, channels=1)
CPU = torch.device("cpu")


STRIDED = AutoencoderSettings(widths=(4, 8), latent_dim=8, noise=0.05)
POOLING = AutoencoderSettings(architecture="pooling", widths=(8,))


def fit(
    pixels: Pixels,
    folder: Path | None = None,
    *,
    resume: bool = False,
    epochs: int = 4,
    settings: AutoencoderSettings = STRIDED,
    progress: history.Progress | None = None,
    **changes: object,
) -> base.Model:
    training = TrainingSettings(epochs=epochs, batch_size=32).model_copy(update=changes)
    model = registry.build(settings, SPEC, training.seed)
    loop.train(model, pixels, training, CPU, folder=folder, resume=resume, progress=progress)
    return model


def weights(model: base.Model) -> np.ndarray:
    return np.concatenate([tensor.numpy().ravel() for tensor in model.state_dict().values()])


def test_the_loss_falls(digit_pixels: Pixels) -> None:
    model = registry.build(AutoencoderSettings(widths=(8, 16), latent_dim=16), SPEC, 0)
    history = loop.train(model, digit_pixels[:500], TrainingSettings(epochs=20), CPU)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert [row["epoch"] for row in history] == list(range(1, 21))


@pytest.mark.parametrize("settings", [STRIDED, POOLING], ids=["strided", "pooling"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    settings: AutoencoderSettings, digit_pixels: Pixels, tmp_path: Path
) -> None:
    whole = weights(fit(digit_pixels, settings=settings))
    fit(digit_pixels, tmp_path, epochs=2, settings=settings)
    steps: list[history.TrainingStep] = []
    resumed = fit(digit_pixels, tmp_path, resume=True, settings=settings, progress=steps.append)
    assert {step.epoch for step in steps} == {3, 4}
    np.testing.assert_array_equal(weights(resumed), whole)


def test_a_checkpoint_cut_short_falls_back_to_the_one_before(digit_pixels: Pixels, tmp_path: Path) -> None:
    pixels = digit_pixels[:200]
    whole = weights(fit(pixels))
    fit(pixels, tmp_path, epochs=3)
    newest = checkpoints.list_checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    np.testing.assert_array_equal(weights(fit(pixels, tmp_path, resume=True)), whole)


def test_the_last_two_checkpoints_are_kept_and_the_history_is_json_lines(digit_pixels: Pixels, tmp_path: Path) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=5)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "epoch-000004.safetensors",
        "epoch-000005.safetensors",
    ]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["loss"] > 0 and row["seconds"] >= 0 for row in rows)


@pytest.mark.parametrize("change", ["settings", "images"])
def test_a_checkpoint_of_another_run_is_refused(digit_pixels: Pixels, tmp_path: Path, change: str) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=1)
    images, rate = (digit_pixels[:100], 0.01) if change == "settings" else (digit_pixels[1:101], 0.001)
    with pytest.raises(TrainingError, match="other settings or other images"):
        fit(images, tmp_path, resume=True, learning_rate=rate)


def test_without_resume_old_checkpoints_are_not_used(digit_pixels: Pixels, tmp_path: Path) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=2, seed=1)
    np.testing.assert_array_equal(
        weights(fit(digit_pixels[:100], tmp_path, epochs=2)), weights(fit(digit_pixels[:100], epochs=2))
    )


def test_a_damaged_checkpoint_falls_back_to_the_one_before(digit_pixels: Pixels, tmp_path: Path) -> None:
    whole = weights(fit(digit_pixels[:200]))
    fit(digit_pixels[:200], tmp_path, epochs=3)
    newest = checkpoints.list_checkpoints(tmp_path)[-1]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 0x40
    newest.write_bytes(content)
    np.testing.assert_array_equal(weights(fit(digit_pixels[:200], tmp_path, resume=True)), whole)


def test_a_new_run_in_an_old_folder_forgets_the_old_one(digit_pixels: Pixels, tmp_path: Path) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=5)
    fit(digit_pixels[:100], tmp_path, epochs=1, learning_rate=0.01)
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["epoch-000001.safetensors"]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_resuming_with_fewer_epochs_than_were_done_is_refused(digit_pixels: Pixels, tmp_path: Path) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=3)
    with pytest.raises(TrainingError, match="has 3 epochs and 2 were asked for"):
        fit(digit_pixels[:100], tmp_path, epochs=2, resume=True)


def test_resuming_a_finished_run_restores_a_lost_history(digit_pixels: Pixels, tmp_path: Path) -> None:
    fit(digit_pixels[:100], tmp_path, epochs=3)
    (tmp_path / "history.jsonl").unlink()
    fit(digit_pixels[:100], tmp_path, epochs=3, resume=True)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("loss", ["bce", "mse", "l1", "ssim"])
def test_every_loss_is_the_same_in_both_precisions(
    loss: Literal["bce", "mse", "l1", "ssim"], digit_pixels: Pixels
) -> None:
    model = registry.build(AutoencoderSettings(widths=(4, 8), latent_dim=8, loss=loss), SPEC, 0)
    assert isinstance(model, base.GradientModel)
    batch = model.scale(torch.from_numpy(digit_pixels[:64]))
    exact = float(model.loss(batch).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(model.loss(batch).detach()) == pytest.approx(exact, rel=0.01)


def test_a_run_that_breaks_down_says_what_to_try(digit_pixels: Pixels) -> None:
    class Broken(Autoencoder):
        def loss(self, batch: torch.Tensor) -> torch.Tensor:
            return super().loss(batch) * float("nan")

    model = Broken(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC)
    with pytest.raises(TrainingError, match=r"not a number in epoch 1 .* smaller learning rate \(now 0.001\)"):
        loop.train(model, digit_pixels[:64], TrainingSettings(epochs=1), CPU)


def test_a_learning_rate_that_is_far_too_large_is_noticed(digit_pixels: Pixels) -> None:
    model = registry.build(AutoencoderSettings(architecture="pooling", widths=(4, 8), loss="bce"), SPEC, 0)
    with pytest.raises(TrainingError, match=r"(worse than|not a number).*smaller learning rate \(now 5\)"):
        loop.train(model, digit_pixels, TrainingSettings(epochs=5, learning_rate=5.0, precision="fp32"), CPU)


def test_a_rough_beginning_of_a_few_steps_is_no_breakdown(digit_pixels: Pixels) -> None:
    class Rough(Autoencoder):
        steps = 0

        def loss(self, batch: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            return super().loss(batch) * (3 if self.training and self.steps <= 8 else 1)

    model = Rough(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC)
    history = loop.train(model, digit_pixels[:256], TrainingSettings(epochs=2, batch_size=32), CPU)
    assert history[0]["loss"] > loop.MAX_LOSS_RATIO * history[1]["loss"]


def test_images_sorted_by_kind_are_not_taken_for_a_breakdown(digit_pixels: Pixels) -> None:
    """Grey pictures come first, and even an untrained network gives grey: the others must count too."""
    pixels = digit_pixels[:1200].copy()
    pixels[:300] = 120 + pixels[:300] // 32
    pixels[300:] = 255 - pixels[300:] // 16
    model = registry.build(AutoencoderSettings(architecture="pooling", widths=(4, 8)), SPEC, 0)
    assert isinstance(model, base.GradientModel)
    on_the_first = loop.untrained_loss(model, torch.from_numpy(pixels[:256]), 0)
    (row,) = loop.train(model, pixels, TrainingSettings(epochs=1, learning_rate=1e-5), CPU)
    assert row["loss"] > loop.MAX_LOSS_RATIO * on_the_first


def test_training_leaves_the_users_randomness_alone(digit_pixels: Pixels) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    fit(digit_pixels[:64], epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_progress_counts_up_to_the_end(digit_pixels: Pixels) -> None:
    steps: list[history.TrainingStep] = []
    model = registry.build(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC, 0)
    loop.train(model, digit_pixels[:100], TrainingSettings(epochs=2, batch_size=10), CPU, progress=steps.append)
    assert (steps[-1].epoch, steps[-1].epochs, steps[-1].step, steps[-1].steps) == (2, 2, 10, 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_that_is_not_there_is_refused_and_auto_takes_the_cpu() -> None:
    with pytest.raises(SettingsError, match="sees no CUDA device; use --device cpu"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


def rows(*progress: float, seconds: float = 10.0) -> list[dict[str, float]]:
    return [{"epoch": i + 1, "loss": 1.0, "progress": p, "seconds": seconds} for i, p in enumerate(progress)]


def shares(settings: TrainingSettings, seconds: float, budget: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pace of a training whose epochs take so many seconds, by a clock of our own."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    history: list[dict[str, float]] = []
    while (share := next_progress(history, settings, budget)) is not None:
        now += seconds
        history = rows(*[row["progress"] for row in history], share, seconds=seconds)
    return [row["progress"] for row in history]


def test_a_deadline_makes_as_many_epochs_as_fit_and_ends_the_schedule_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainingSettings(epochs=100)
    found = shares(settings, seconds=10.0, budget=155.0, monkeypatch=monkeypatch)
    assert len(found) == 15
    assert found[-1] == 1.0
    assert all(after > before for before, after in pairwise(found))
    assert shares(settings, seconds=10.0, budget=5000.0, monkeypatch=monkeypatch)[-1] == 1.0
    assert len(shares(settings, seconds=10.0, budget=5000.0, monkeypatch=monkeypatch)) == 100


def test_a_deadline_that_has_passed_ends_with_the_next_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(shares(TrainingSettings(epochs=100), seconds=10.0, budget=1.0, monkeypatch=monkeypatch)) == 2


def test_without_a_deadline_progress_is_even() -> None:
    settings = TrainingSettings(epochs=4)
    assert next_progress(rows(0.25), settings, float("inf")) == 0.5
    assert next_progress(rows(0.25, 0.5, 0.75, 1.0), settings, float("inf")) is None


def test_a_pace_is_repeated_bitwise(digit_pixels: Pixels) -> None:
    uneven = (0.05, 0.3, 1.0)
    paced = fit(digit_pixels, schedule="linear", pace=uneven)
    again = fit(digit_pixels, schedule="linear", pace=uneven)
    even = fit(digit_pixels, schedule="linear", epochs=3)
    np.testing.assert_array_equal(weights(paced), weights(again))
    assert (weights(paced) != weights(even)).any()


def test_an_epoch_can_be_a_part_of_the_images(digit_pixels: Pixels) -> None:
    seen: list[history.TrainingStep] = []
    fit(digit_pixels, epochs=2, epoch_images=70, progress=seen.append)
    assert {step.steps for step in seen} == {3}  # 32 + 32 + 6


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.9, 0.5, 0]), ("one_cycle", [0, 0.5, 0.625, 0])],
)
def test_schedules_end_where_they_should(schedule: str, factors: list[float]) -> None:
    found = [lr_multiplier(schedule, progress) for progress in (0.0, 0.1, 0.5, 1.0)]
    assert found == pytest.approx(factors)


def test_a_finished_run_goes_on_for_more_epochs(digit_pixels: Pixels, tmp_path: Path) -> None:
    """Also when they are not a multiple: the earlier rows' progress belongs to a shorter training."""
    fit(digit_pixels, tmp_path, epochs=3)
    fit(digit_pixels, tmp_path, epochs=4, resume=True, progress=lambda step: None)
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]


def test_another_number_of_epochs_is_another_run_where_the_learning_rate_falls(
    digit_pixels: Pixels, tmp_path: Path
) -> None:
    fit(digit_pixels, tmp_path, epochs=2, schedule="linear")
    with pytest.raises(TrainingError, match="other settings"):
        fit(digit_pixels, tmp_path, epochs=3, schedule="linear", resume=True)


@pytest.mark.parametrize("pace", [(0.5, 0.5), (0.7, 0.2, 1.0)])
def test_a_pace_must_rise(pace: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="rise"):
        parse(TrainingSettings, {"pace": pace}, "test")
