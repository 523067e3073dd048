"""The seeds' architectures are exactly those that are described."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.models import base, registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.conv_variants import UpsampledConv2d
from oddlens.models.layers import SSIM, ledoit_wolf_whitening, pad_to_multiple
from oddlens.recipes.run import find_recipe
from oddlens.training import loop


def layers(network: nn.Module) -> list[str]:
    """The network's layers in short."""
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


def seed_model(name: str) -> AutoencoderSettings:
    """The settings of a seed recipe's model."""
    settings = find_recipe(name).model
    assert isinstance(settings, AutoencoderSettings)
    return settings


def test_the_mnist_seed_is_built_as_described() -> None:
    model = registry.build(seed_model("mnist"), InputSpec(height=28, width=28, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert layers(model.encoder) == [
        "conv 1-32 3/1", "MaxPool2d", "ReLU", "conv 32-64 3/1", "MaxPool2d", "ReLU", "conv 64-64 3/1", "ReLU",
    ]  # fmt: skip
    assert layers(model.decoder) == ["2x2 up, conv 64-32 3/1", "ReLU", "2x2 up, conv 32-1 3/1"]


def test_the_cifar_seed_is_built_as_described() -> None:
    model = registry.build(seed_model("cifar10-airplane"), InputSpec(height=32, width=32, channels=3), seed=0)
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
def test_the_seeds_train_as_described(name: str, epochs: int, batch: int, loss: str) -> None:
    recipe, model = find_recipe(name), seed_model(name)
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate) == (epochs, batch, 0.001)
    assert (model.loss, model.error, model.score, model.top_percent, model.noise) == (loss, "mse", "error", 100, 0)
    assert (recipe.decision.method, recipe.decision.train_percentile) == ("train_percentile", 99.0)


def test_the_score_is_the_mean_squared_error_per_pixel() -> None:
    model = registry.build(seed_model("cifar10-airplane"), InputSpec(height=32, width=32, channels=3), seed=0)
    batch = torch.rand(4, 3, 32, 32)
    score, anomaly_map, reconstruction = model(batch)
    torch.testing.assert_close(score, nn.functional.mse_loss(reconstruction, batch, reduction="none").mean((1, 2, 3)))
    torch.testing.assert_close(anomaly_map.mean((1, 2)), score)


def test_the_loss_is_binary_cross_entropy_of_the_reconstruction() -> None:
    model = registry.build(seed_model("mnist"), InputSpec(height=28, width=28, channels=1), seed=0)
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


def fitted(score: str, pixels: Pixels, **settings: Any) -> Autoencoder:
    """An autoencoder trained for an epoch, with all that its score needs."""
    spec = InputSpec(height=pixels.shape[1], width=pixels.shape[2], channels=pixels.shape[3])
    made = AutoencoderSettings(score=score, **{"widths": (8, 16), "latent_dim": 8} | settings)  # type: ignore[arg-type]
    model = registry.build(made, spec, seed=0)
    loop.train(model, pixels, TrainingSettings(epochs=1), torch.device("cpu"))
    assert isinstance(model, Autoencoder)
    return model


def test_sap_is_the_mean_squared_difference_of_all_hidden_units(digit_pixels: Pixels) -> None:
    model = fitted("sap", digit_pixels[:64])
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
def test_whitened_scores_tell_strange_images(score: str, architecture: str, digit_pixels: Pixels) -> None:
    model = fitted(score, digit_pixels[:400], architecture=architecture)
    with torch.no_grad():
        seen = model(model.scale(torch.from_numpy(digit_pixels[:400]))).anomaly_score
        strange = model(model.scale(torch.from_numpy(255 - digit_pixels[:400]))).anomaly_score
    assert 1.3 < float(seen.square().mean()) < 2.001, "1 and the mean square of whitened features"
    assert float(strange.square().median()) > 1.5 * float(seen.square().median())


@pytest.mark.parametrize("score", ["sap", "nap", "latent"])
def test_another_score_leaves_network_map_and_reconstruction_alone(score: str, digit_pixels: Pixels) -> None:
    plain, other = fitted("error", digit_pixels[:64]), fitted(score, digit_pixels[:64])
    batch = plain.scale(torch.from_numpy(digit_pixels[64:80]))
    with torch.no_grad():
        ours, theirs = plain(batch), other(batch)
    assert torch.equal(ours.reconstruction, theirs.reconstruction)
    assert torch.equal(ours.anomaly_map, theirs.anomaly_map)
    assert not torch.equal(ours.anomaly_score, theirs.anomaly_score)


@pytest.mark.parametrize("score", ["nap", "latent"])
@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("value", [0, 77])
def test_few_and_constant_training_images_give_finite_scores(score: str, count: int, value: int) -> None:
    model = fitted(score, np.full((count, 12, 9, 1), value, dtype=np.uint8))
    pixels = np.stack([np.full((12, 9, 1), shade, dtype=np.uint8) for shade in (0, 77, 200, 255)])
    with torch.no_grad():
        scores = model(model.scale(torch.from_numpy(pixels))).anomaly_score
    assert torch.isfinite(scores).all()
    assert float(scores[3]) > float(scores[0 if value == 0 else 1])


def test_wide_layers_are_averaged_over_the_whole_picture() -> None:
    spec = InputSpec(height=256, width=256, channels=3)
    settings = AutoencoderSettings(widths=(64, 128, 256), latent_dim=128, score="nap")
    assert registry.tensor_shapes(settings, spec)["whitened.mean"] == (4 * 64 + 4 * 128 + 256 + 128,)


def test_the_shrinkage_is_ledoit_and_wolfs() -> None:
    samples = np.random.default_rng(0).normal(size=(40, 12)) * np.linspace(0.5, 3, 12)
    mean, whitening = ledoit_wolf_whitening(torch.from_numpy(samples))
    covariance = torch.linalg.inv(whitening.double() @ whitening.double().T).numpy()
    np.testing.assert_allclose(covariance, ledoit_wolf(samples)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean.numpy(), samples.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("height", [4, 7, 28, 33])
@pytest.mark.parametrize("architecture", ["pooling", "strided"])
def test_any_size_is_reconstructed_at_its_own_size(height: int, architecture: str) -> None:
    settings = AutoencoderSettings(architecture=architecture, widths=(4, 8, 8), latent_dim=4)  # type: ignore[arg-type]
    model = registry.build(settings, InputSpec(height=height, width=height + 5, channels=3), seed=0)
    assert model(torch.rand(2, 3, height, height + 5)).reconstruction.shape == (2, 3, height, height + 5)


def test_ssim_is_zero_for_equal_images_and_grows_with_difference() -> None:
    ssim = SSIM(1, 20, 20)
    image = torch.rand(1, 1, 20, 20)
    torch.testing.assert_close(ssim(image, image), torch.zeros(1, 20, 20), atol=1e-6, rtol=0)
    little, much = ssim(image, image + 0.02 * torch.rand(1, 1, 20, 20)), ssim(image, torch.rand(1, 1, 20, 20))
    assert 0 < float(little.mean()) < 0.2 < float(much.mean()) <= 2


def test_ssim_is_the_published_formula() -> None:
    first, second = torch.rand(1, 1, 11, 11), torch.rand(1, 1, 11, 11)
    ssim = SSIM(1, 11, 11)
    window = ssim.window[0, 0].double()
    x, y = first[0, 0].double(), second[0, 0].double()
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy, cxy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum(), (window * (x - mx) * (y - my)).sum()
    published = (2 * mx * my + 1e-4) * (2 * cxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(1 - published) == pytest.approx(float(ssim(first, second)[0, 5, 5]), abs=1e-5)


def test_padding_repeats_edges_below_and_right() -> None:
    padded = pad_to_multiple(torch.arange(6.0).reshape(1, 1, 2, 3), 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0, 3].tolist() == [3, 4, 5, 5]
