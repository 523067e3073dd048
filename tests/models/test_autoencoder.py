"""The seeds' architectures are exactly those that are described."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from oddlens import models
from oddlens.config import AutoencoderSettings, InputSpec
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.layers import SSIM, pad_to_multiple
from oddlens.recipes import find


def layers(network: nn.Module) -> list[str]:
    """The network's layers in short."""
    short: list[str] = []
    for layer in network.children():
        match layer:
            case nn.ConvTranspose2d():
                short.append(f"up {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}")
            case nn.Conv2d():
                short.append(f"conv {layer.in_channels}-{layer.out_channels} {layer.kernel_size[0]}/{layer.stride[0]}")
            case nn.Linear():
                short.append(f"linear {layer.in_features}-{layer.out_features}")
            case _:
                short.append(type(layer).__name__)
    return short


def test_the_mnist_seed_is_built_as_described() -> None:
    model = models.build(find("mnist").model, InputSpec(height=28, width=28, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert layers(model.encoder) == [
        "conv 1-32 3/1", "ReLU", "MaxPool2d", "conv 32-64 3/1", "ReLU", "MaxPool2d", "conv 64-64 3/1", "ReLU",
    ]  # fmt: skip
    assert layers(model.decoder) == ["Upsample", "conv 64-32 3/1", "ReLU", "Upsample", "conv 32-1 3/1"]


def test_the_cifar_seed_is_built_as_described() -> None:
    model = models.build(find("cifar10-airplane").model, InputSpec(height=32, width=32, channels=3), seed=0)
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
    recipe = find(name)
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate) == (epochs, batch, 0.001)
    assert (recipe.model.loss, recipe.model.error, recipe.model.top_percent) == (loss, "mse", 100)
    assert (recipe.decision.method, recipe.decision.train_percentile) == ("train_percentile", 99.0)


def test_the_score_is_the_mean_squared_error_per_pixel() -> None:
    model = models.build(find("cifar10-airplane").model, InputSpec(height=32, width=32, channels=3), seed=0)
    batch = torch.rand(4, 3, 32, 32)
    score, anomaly_map, reconstruction = model(batch)
    torch.testing.assert_close(score, nn.functional.mse_loss(reconstruction, batch, reduction="none").mean((1, 2, 3)))
    torch.testing.assert_close(anomaly_map.mean((1, 2)), score)


def test_the_loss_is_binary_cross_entropy_of_the_reconstruction() -> None:
    model = models.build(find("mnist").model, InputSpec(height=28, width=28, channels=1), seed=0)
    batch = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(
        model.loss(batch), nn.functional.binary_cross_entropy(model(batch).reconstruction, batch)
    )


def test_top_percent_is_the_mean_of_the_largest_errors() -> None:
    settings = AutoencoderSettings(widths=(8,), latent_dim=4, top_percent=5)
    model = models.build(settings, InputSpec(height=10, width=20, channels=1), seed=0)
    score, anomaly_map, _ = model(torch.rand(3, 1, 10, 20))
    largest = np.sort(anomaly_map.detach().numpy().reshape(3, -1), axis=1)[:, -10:]
    np.testing.assert_allclose(score.detach().numpy(), largest.mean(axis=1), rtol=1e-6)


def test_denoising_adds_noise_to_the_input_only_while_training() -> None:
    settings = AutoencoderSettings(widths=(8,), latent_dim=4, noise=0.3)
    model = models.build(settings, InputSpec(height=8, width=8, channels=1), seed=0)
    batch = torch.rand(3, 1, 8, 8)
    torch.manual_seed(0)
    losses = {float(model.loss(batch).detach()) for _ in range(4)}
    assert len(losses) == 4
    assert torch.equal(model(batch).anomaly_score, model(batch).anomaly_score)


@pytest.mark.parametrize("height", [4, 7, 28, 33])
@pytest.mark.parametrize("architecture", ["pooling", "strided"])
def test_any_size_is_reconstructed_at_its_own_size(height: int, architecture: str) -> None:
    settings = AutoencoderSettings(architecture=architecture, widths=(4, 8, 8), latent_dim=4)  # type: ignore[arg-type]
    model = models.build(settings, InputSpec(height=height, width=height + 5, channels=3), seed=0)
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
