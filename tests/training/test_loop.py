"""The training loop: seeded, repeatable to the bit, and stopped with advice when training diverges."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small_training import CPU, SPEC, flat_weights, train_small

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.errors import TrainingError
from oddlens.models import base, registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.training import checkpoints, loop


def test_the_loss_falls(digit_pixels: Pixels) -> None:
    model = registry.build(AutoencoderSettings(widths=(8, 16), latent_dim=16), SPEC, 0)
    history = loop.train(model, digit_pixels[:500], TrainingSettings(epochs=20), CPU)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert [row["epoch"] for row in history] == list(range(1, 21))


@pytest.mark.parametrize("loss", ["bce", "mse", "l1", "ssim"])
def test_each_loss_is_the_same_in_both_precisions(
    loss: Literal["bce", "mse", "l1", "ssim"], digit_pixels: Pixels
) -> None:
    model = registry.build(AutoencoderSettings(widths=(4, 8), latent_dim=8, loss=loss), SPEC, 0)
    assert isinstance(model, base.GradientModel)
    batch = model.scale(torch.from_numpy(digit_pixels[:64]))
    exact = float(model.loss(batch).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(model.loss(batch).detach()) == pytest.approx(exact, rel=0.01)


def test_a_loss_that_is_not_a_number_is_refused_with_advice(digit_pixels: Pixels) -> None:
    class WithoutNumber(Autoencoder):
        def augmented_loss(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return super().augmented_loss(inputs) * float("nan")

    model = WithoutNumber(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC)
    with pytest.raises(TrainingError, match=r"not a number in epoch 1 .* smaller learning rate \(now 0.001\)"):
        loop.train(model, digit_pixels[:64], TrainingSettings(epochs=1), CPU)


def test_a_learning_rate_that_is_far_too_large_is_refused(digit_pixels: Pixels) -> None:
    model = registry.build(AutoencoderSettings(architecture="pooling", widths=(4, 8), loss="bce"), SPEC, 0)
    with pytest.raises(TrainingError, match=r"(worse than|not a number).*smaller learning rate \(now 5\)"):
        loop.train(model, digit_pixels, TrainingSettings(epochs=5, learning_rate=5.0, precision="fp32"), CPU)


def test_a_few_steps_of_high_loss_at_the_start_are_not_a_divergence(digit_pixels: Pixels) -> None:
    class RoughStart(Autoencoder):
        steps = 0

        def augmented_loss(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
            self.steps += self.training
            return super().augmented_loss(inputs) * (3 if self.training and self.steps <= 8 else 1)

    model = RoughStart(AutoencoderSettings(widths=(4,), latent_dim=4), SPEC)
    history = loop.train(model, digit_pixels[:256], TrainingSettings(epochs=2, batch_size=32), CPU)
    assert history[0]["loss"] > loop.MAX_LOSS_RATIO * history[1]["loss"]


def test_images_sorted_by_kind_do_not_count_as_a_divergence(digit_pixels: Pixels) -> None:
    """Grey images come first, and even an untrained network gives grey: the others must count too."""
    pixels = digit_pixels[:1200].copy()
    pixels[:300] = 120 + pixels[:300] // 32
    pixels[300:] = 255 - pixels[300:] // 16
    model = registry.build(AutoencoderSettings(architecture="pooling", widths=(4, 8)), SPEC, 0)
    assert isinstance(model, base.GradientModel)
    loss_of_first_images = loop.untrained_loss(model, torch.from_numpy(pixels[:256]), 0)
    (row,) = loop.train(model, pixels, TrainingSettings(epochs=1, learning_rate=1e-5), CPU)
    assert row["loss"] > loop.MAX_LOSS_RATIO * loss_of_first_images


def test_a_diverged_epoch_leaves_no_checkpoint(digit_pixels: Pixels, tmp_path: Path) -> None:
    settings = AutoencoderSettings(architecture="pooling", widths=(4, 8), loss="bce")
    with pytest.raises(TrainingError, match="smaller learning rate") as raised:
        train_small(digit_pixels, tmp_path, epochs=5, settings=settings, learning_rate=5.0, precision="fp32")
    names = [path.stem for path in checkpoints.list_checkpoints(tmp_path)]
    diverged = int(str(raised.value).partition("in epoch ")[2].partition(" ")[0])
    assert all(int(name.removeprefix("epoch-")) < diverged for name in names)


def test_training_leaves_the_global_random_state_alone(digit_pixels: Pixels) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train_small(digit_pixels[:64], epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_a_pace_is_repeated_bitwise(digit_pixels: Pixels) -> None:
    uneven = (0.05, 0.3, 1.0)
    paced = train_small(digit_pixels, schedule="linear", pace=uneven)
    again = train_small(digit_pixels, schedule="linear", pace=uneven)
    even = train_small(digit_pixels, schedule="linear", epochs=3)
    np.testing.assert_array_equal(flat_weights(paced), flat_weights(again))
    assert (flat_weights(paced) != flat_weights(even)).any()


def test_the_random_seed_determines_the_weights(digit_pixels: Pixels) -> None:
    first, again, other = (flat_weights(train_small(digit_pixels[:64], epochs=1, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("precision", "expected"), [("fp32", False), ("bf16", True)])
def test_training_multiplies_in_the_requested_precision(precision: str, expected: bool) -> None:
    assert loop.use_bf16(precision, CPU) is expected


@pytest.mark.parametrize(("epoch_images", "n_images"), [(30, 3), (39, 3), (1, 1), (100, 10), (None, 10)])
def test_a_model_is_fitted_to_all_tiles_of_the_images_that_are_drawn(epoch_images: int | None, n_images: int) -> None:
    drawn = loop.drawn_images(100, TrainingSettings(epoch_images=epoch_images), tiles_per_image=10)
    images = drawn.reshape(-1, 10) // 10
    assert len(images) == n_images
    assert (images == images[:, :1]).all()
    assert (drawn.diff() > 0).all()


def test_of_whole_images_as_many_are_drawn_as_requested() -> None:
    drawn = loop.drawn_images(100, TrainingSettings(epoch_images=7))
    assert len(set(drawn.tolist())) == 7
