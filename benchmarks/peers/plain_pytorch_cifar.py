"""The CIFAR-10 reference recipe as a plain PyTorch script, with the 99th percentile of the errors as threshold.

    python benchmarks/peers/plain_pytorch_cifar.py --data DIR
    python benchmarks/peers/plain_pytorch_cifar.py --data DIR --epochs 0

There are no optimizations beyond those of a straightforward script. With `--epochs 0`, it only measures the speed of
scoring, with random weights.
"""

from __future__ import annotations

import numpy as np
import torch
from raw import Clock, auroc, cifar, make_parser, print_json
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, LATENT, PASSES = 64, 128, 3


class Autoencoder(nn.Module):
    """3-32-64-128 with strides, a linear bottleneck, 128-64-32-3 with transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128 * 4 * 4, LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 128 * 4 * 4),
            nn.Unflatten(1, (128, 4, 4)),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (N, 3, 32, 32) in 0..1."""
        return self.decoder(self.encoder(images))


def fit(model: nn.Module, images: torch.Tensor, epochs: int) -> tuple[float, list[float]]:
    """Train; return the mean loss of the last epoch and the seconds of each epoch."""
    criterion, optimizer = nn.MSELoss(), torch.optim.Adam(model.parameters(), lr=0.001)
    loader = DataLoader(TensorDataset(images), batch_size=BATCH, shuffle=True)
    epoch, seconds, mean = Clock(), [], 0.0
    model.train()
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), batch)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        mean = total / len(images)
        seconds.append(epoch.lap())
    return mean, seconds


def score(model: nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean squared errors (N,) and the error maps (N, 32, 32)."""
    model.eval()
    scores, maps = [], []
    with torch.inference_mode():
        for (batch,) in DataLoader(TensorDataset(images), batch_size=BATCH):
            errors = (batch - model(batch)).square().mean(dim=1)
            maps.append(errors.numpy())
            scores.append(errors.mean(dim=(1, 2)).numpy())
    return np.concatenate(scores), np.concatenate(maps)


def main() -> None:
    """Load, fit, compute the threshold, score, and print the seconds of each step."""
    options = make_parser(__doc__.partition("\n")[0], epochs=10).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    clock = Clock()
    pixels, test_pixels, anomalous = cifar(options.data, options.images)
    images, test = (torch.tensor(each).float() / 255 for each in (pixels, test_pixels))
    loading = clock.lap()
    model = Autoencoder()
    loss, epochs = fit(model, images, options.epochs)
    fitting = clock.lap()
    threshold = np.percentile(score(model, images)[0], 99)
    deciding = clock.lap()
    scores, _ = score(model, test)  # warm-up
    clock.lap()
    seconds = []
    for _ in range(PASSES):
        score(model, test)
        seconds.append(clock.lap())
    print_json(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "seconds_epochs": epochs,
            "seconds_threshold": deciding,
            "loss": loss,
            "auroc": auroc(scores, anomalous),
            "detection_rate": float((scores[anomalous] > threshold).mean()),
            "false_alarm_rate": float((scores[~anomalous] > threshold).mean()),
            "images_per_second": len(test) / float(np.median(seconds)),
            "versions": {"torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()
