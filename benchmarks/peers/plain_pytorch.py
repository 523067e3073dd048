"""A reference recipe as a plain PyTorch script: DataLoader, Adam, float32, the 99th percentile of errors as threshold.

    python benchmarks/peers/plain_pytorch.py mnist --data DIR
    python benchmarks/peers/plain_pytorch.py cifar --data DIR
    python benchmarks/peers/plain_pytorch.py cifar --data DIR --epochs 0

There are no optimizations beyond those of a straightforward script. With `--epochs 0`, it only measures the speed of
scoring CIFAR-10's test images, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from raw import Clock, auroc, cifar, make_parser, mnist, print_json
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LATENT, PASSES = 128, 3


def mnist_network() -> nn.Module:
    """1-32, pool, 32-64, pool, 64-64 | up, 64-32, up, 32-1."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 1, 3, padding=1),
        nn.Sigmoid(),
    )


def cifar_network() -> nn.Module:
    """3-32-64-128 with strides, a linear bottleneck, 128-64-32-3 with transposed convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, LATENT),
        nn.Linear(LATENT, 128 * 4 * 4),
        nn.Unflatten(1, (128, 4, 4)),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


class Recipe(NamedTuple):
    """What the recipes differ in."""

    network: Callable[[], nn.Module]
    criterion: nn.Module
    batch: int


RECIPES = {
    "mnist": Recipe(mnist_network, nn.BCELoss(), 128),
    "cifar": Recipe(cifar_network, nn.MSELoss(), 64),
}


def fit(model: nn.Module, images: torch.Tensor, recipe: Recipe, epochs: int) -> tuple[float, list[float]]:
    """Train; return the mean loss of the last epoch and the seconds of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loader = DataLoader(TensorDataset(images), batch_size=recipe.batch, shuffle=True)
    epoch, seconds, mean = Clock(), [], 0.0
    model.train()
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            optimizer.zero_grad()
            loss = recipe.criterion(model(batch), batch)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        mean = total / len(images)
        seconds.append(epoch.lap())
    return mean, seconds


def score(model: nn.Module, images: torch.Tensor, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared errors (N,) and the error maps (N, H, W)."""
    model.eval()
    scores, maps = [], []
    with torch.inference_mode():
        for (batch,) in DataLoader(TensorDataset(images), batch_size=batch_size):
            errors = (batch - model(batch)).square().mean(dim=1)
            maps.append(errors.numpy())
            scores.append(errors.mean(dim=(1, 2)).numpy())
    return np.concatenate(scores), np.concatenate(maps)


def test_results(model: nn.Module, pixels: np.ndarray, anomalous: np.ndarray, threshold: float) -> dict[str, float]:
    """Score the test images, a few times after a warm-up; return rates and images per second."""
    images, batch, seconds = torch.tensor(pixels).float() / 255, RECIPES["cifar"].batch, []
    scores, _ = score(model, images, batch)
    clock = Clock()
    for _ in range(PASSES):
        score(model, images, batch)
        seconds.append(clock.lap())
    return {
        "auroc": auroc(scores, anomalous),
        "detection_rate": float((scores[anomalous] > threshold).mean()),
        "false_alarm_rate": float((scores[~anomalous] > threshold).mean()),
        "images_per_second": len(images) / float(np.median(seconds)),
    }


def main() -> None:
    """Load, fit, compute the threshold, score, and print the seconds of each step."""
    parser = make_parser(__doc__.partition("\n")[0], epochs=10)
    parser.add_argument("recipe", choices=tuple(RECIPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    clock, recipe = Clock(), RECIPES[options.recipe]
    is_cifar = options.recipe == "cifar"
    pixels, *test = cifar(options.data, options.images) if is_cifar else [mnist(options.data)[: options.images, None]]
    images = torch.tensor(pixels).float() / 255
    loading = clock.lap()
    model = recipe.network()
    loss, epochs = fit(model, images, recipe, options.epochs)
    fitting = clock.lap()
    threshold = float(np.percentile(score(model, images, recipe.batch)[0], 99))
    deciding = clock.lap()
    print_json(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "seconds_epochs": epochs,
            "seconds_threshold": deciding,
            "threshold": threshold,
            "loss": loss,
            "images": len(images),
            **(test_results(model, *test, threshold) if test else {}),
            "versions": {"torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()
