"""Autoencoders: the architectures of the reference recipes, losses and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.models import base, registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.conv_variants import UpsampledConv2d
from oddlens.recipes.run import find_recipe
from oddlens.training import loop


def layers(network: nn.Module) -> list[str]:
    """Short description of each layer of a network."""
    short: list[str] = []
    for layer in network.children():
        match layer:
            case nn.ConvTranspose2d():
                short.append(f"up {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}")
            case nn.Conv2d():
                before = "2x2 up, " if isinstance(layer, UpsampledConv2d) else ""
                short.append(
                    f"{before}conv {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}"
                )
            case nn.Linear():
                short.append(f"linear {layer.in_features}-{layer.out_features}")
            case _:
                short.append(type(layer).__name__)
    return short


def recipe_model(name: str) -> AutoencoderSettings:
    """Settings of the model of a reference recipe."""
    settings = find_recipe(name).model
    assert isinstance(settings, AutoencoderSettings)
    return settings


def test_the_mnist_recipe_has_its_documented_layers() -> None:
    model = registry.build(recipe_model("mnist"), InputSpec(height=28, width=28, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert layers(model.encoder) == [
        "conv 1-32 3/1", "MaxPool2d", "ReLU", "conv 32-64 3/1", "MaxPool2d", "ReLU", "conv 64-64 3/1", "ReLU",
    ]  # fmt: skip
    assert layers(model.decoder) == ["2x2 up, conv 64-32 3/1", "ReLU", "2x2 up, conv 32-1 3/1"]


def test_the_cifar_recipe_has_its_documented_layers() -> None:
    model = registry.build(recipe_model("cifar10-airplane"), InputSpec(height=32, width=32, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert layers(model.encoder) == [
        "conv 3-32 3/2", "ReLU", "conv 32-64 3/2", "ReLU", "conv 64-128 3/2", "ReLU", "Flatten", "linear 2048-128",
    ]  # fmt: skip
    assert layers(model.decoder) == [
        "linear 128-2048", "Unflatten", "up 128-64 4/2", "ReLU", "up 64-32 4/2", "ReLU", "up 32-3 4/2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "loss"), [("mnist", 10, 128, "bce"), ("cifar10-airplane", 10, 64, "mse")]
)
def test_the_reference_recipes_have_their_documented_training(name: str, epochs: int, batch: int, loss: str) -> None:
    recipe, model = find_recipe(name), recipe_model(name)
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate) == (epochs, batch, 0.001)
    assert (model.loss, model.error, model.score, model.top_percent, model.noise) == (loss, "mse", "error", 100, 0)
    assert (recipe.decision.method, recipe.decision.train_percentile) == ("train_percentile", 99.0)


def test_the_score_is_the_mean_squared_error_per_pixel() -> None:
    model = registry.build(recipe_model("cifar10-airplane"), InputSpec(height=32, width=32, channels=3), seed=0)
    batch = torch.rand(4, 3, 32, 32)
    score, anomaly_map, reconstruction = model(batch)
    torch.testing.assert_close(score, nn.functional.mse_loss(reconstruction, batch, reduction="none").mean((1, 2, 3)))
    torch.testing.assert_close(anomaly_map.mean((1, 2)), score)


def test_the_loss_is_binary_cross_entropy_of_the_reconstruction() -> None:
    model = registry.build(recipe_model("mnist"), InputSpec(height=28, width=28, channels=1), seed=0)
    assert isinstance(model, base.GradientModel)
    batch = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(
        model.loss(batch), nn.functional.binary_cross_entropy(model(batch).reconstruction, batch)
    )


def test_top_percent_is_the_mean_of_the_largest_errors() -> None:
    settings = AutoencoderSettings(widths=(8,), latent_dim=4, top_percent=5)
    model = registry.build(settings, InputSpec(height=10, width=20, channels=1), seed=0)
    score, anomaly_map, _ = model(torch.rand(3, 1, 10, 20))
    largest = np.sort(anomaly_map.detach().numpy().reshape(3, -1), axis=1)[:, -10:]
    np.testing.assert_allclose(score.detach().numpy(), largest.mean(axis=1), rtol=1e-6)


def test_denoising_adds_noise_to_the_input_only_while_training() -> None:
    settings = AutoencoderSettings(widths=(8,), latent_dim=4, noise=0.3)
    model = registry.build(settings, InputSpec(height=8, width=8, channels=1), seed=0)
    assert isinstance(model, base.GradientModel)
    batch = torch.rand(3, 1, 8, 8)
    torch.manual_seed(0)
    losses = {float(model.loss(batch).detach()) for _ in range(4)}
    assert len(losses) == 4
    assert torch.equal(model(batch).anomaly_score, model(batch).anomaly_score)


def train_autoencoder(score: str, pixels: Pixels, **settings: Any) -> Autoencoder:
    """Autoencoder trained for one epoch, with the closed-form part of its score."""
    spec = InputSpec(height=pixels.shape[1], width=pixels.shape[2], channels=pixels.shape[3])
    model_settings = AutoencoderSettings(score=score, **{"widths": (8, 16), "latent_dim": 8} | settings)  # type: ignore[arg-type]
    model = registry.build(model_settings, spec, seed=0)
    loop.train(model, pixels, TrainingSettings(epochs=1), torch.device("cpu"))
    assert isinstance(model, Autoencoder)
    return model


def test_sap_is_the_mean_squared_difference_of_all_hidden_units(digit_pixels: Pixels) -> None:
    model = train_autoencoder("sap", digit_pixels[:64])
    batch = model.scale(torch.from_numpy(digit_pixels[64:68]))
    with torch.no_grad():
        first, second = model.encoder[:2](batch), model.encoder[:2](model(batch).reconstruction)
        hidden = [(first, second), tuple(model.encoder[2:4](values) for values in (first, second))]
        hidden.append(tuple(model.encoder[4:](values) for values in hidden[-1]))
        units = torch.cat([(one - other).flatten(1) for one, other in hidden], dim=1)
        torch.testing.assert_close(model(batch).anomaly_score, units.square().mean(dim=1))
    assert units.shape == (4, 8 * 4 * 4 + 16 * 2 * 2 + 8)


@pytest.mark.parametrize("architecture", ["strided", "pooling"])
@pytest.mark.parametrize("score", ["nap", "latent"])
def test_whitened_scores_separate_inverted_images(score: str, architecture: str, digit_pixels: Pixels) -> None:
    model = train_autoencoder(score, digit_pixels[:400], architecture=architecture)
    with torch.no_grad():
        normal = model(model.scale(torch.from_numpy(digit_pixels[:400]))).anomaly_score
        inverted = model(model.scale(torch.from_numpy(255 - digit_pixels[:400]))).anomaly_score
    assert 1.3 < float(normal.square().mean()) < 2.001, "not 1 plus the mean square of whitened features"
    assert float(inverted.square().median()) > 1.5 * float(normal.square().median())


@pytest.mark.parametrize("score", ["sap", "nap", "latent"])
def test_the_score_setting_changes_nothing_but_the_score(score: str, digit_pixels: Pixels) -> None:
    plain, other = train_autoencoder("error", digit_pixels[:64]), train_autoencoder(score, digit_pixels[:64])
    batch = plain.scale(torch.from_numpy(digit_pixels[64:80]))
    with torch.no_grad():
        plain_output, other_output = plain(batch), other(batch)
    assert torch.equal(plain_output.reconstruction, other_output.reconstruction)
    assert torch.equal(plain_output.anomaly_map, other_output.anomaly_map)
    assert not torch.equal(plain_output.anomaly_score, other_output.anomaly_score)


@pytest.mark.parametrize("score", ["nap", "latent"])
@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("value", [0, 77])
def test_few_and_constant_training_images_give_finite_scores(score: str, count: int, value: int) -> None:
    model = train_autoencoder(score, np.full((count, 12, 9, 1), value, dtype=np.uint8))
    pixels = np.stack([np.full((12, 9, 1), shade, dtype=np.uint8) for shade in (0, 77, 200, 255)])
    with torch.no_grad():
        scores = model(model.scale(torch.from_numpy(pixels))).anomaly_score
    assert torch.isfinite(scores).all()
    assert float(scores[3]) > float(scores[0 if value == 0 else 1])


def test_wide_layers_are_averaged_over_the_whole_image() -> None:
    spec = InputSpec(height=256, width=256, channels=3)
    settings = AutoencoderSettings(widths=(64, 128, 256), latent_dim=128, score="nap")
    assert registry.tensor_shapes(settings, spec)["whitened.mean"] == (4 * 64 + 4 * 128 + 256 + 128,)


@pytest.mark.parametrize("height", [4, 7, 28, 33])
@pytest.mark.parametrize("architecture", ["pooling", "strided"])
def test_reconstructions_have_the_size_of_the_images(height: int, architecture: str) -> None:
    settings = AutoencoderSettings(architecture=architecture, widths=(4, 8, 8), latent_dim=4)  # type: ignore[arg-type]
    model = registry.build(settings, InputSpec(height=height, width=height + 5, channels=3), seed=0)
    assert model(torch.rand(2, 3, height, height + 5)).reconstruction.shape == (2, 3, height, height + 5)
