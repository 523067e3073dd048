"""The CIFAR-10 seed as a plain PyTorch script: airplanes are normal, the 99th percentile of their errors decides.

    python benchmarks/peers/plain_pytorch_cifar.py --data DIR
    python benchmarks/peers/plain_pytorch_cifar.py --data DIR --epochs 0

Nothing is done for speed that a first script would not do. Without epochs it only says how fast it scores, with the
weights that it began with.
"""

from __future__ import annotations

import numpy as np
import torch
from raw import Clock, auroc, cifar, options, tell
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
        """Pictures (N, 3, 32, 32) in 0..1, rebuilt."""
        return self.decoder(self.encoder(images))


def fit(model: nn.Module, images: torch.Tensor, epochs: int) -> tuple[float, list[float]]:
    """Train; gives the last epoch's mean loss, and the seconds of each epoch."""
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
    """Each picture's mean squared error, and its error at every pixel: scores (N,) and maps (N, 32, 32)."""
    model.eval()
    scores, maps = [], []
    with torch.inference_mode():
        for (batch,) in DataLoader(TensorDataset(images), batch_size=BATCH):
            errors = (batch - model(batch)).square().mean(dim=1)
            maps.append(errors.numpy())
            scores.append(errors.mean(dim=(1, 2)).numpy())
    return np.concatenate(scores), np.concatenate(maps)


def main() -> None:
    """Load, fit, decide, score, and say how long each took."""
    asked = options(__doc__.partition("\n")[0], epochs=10).parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    clock = Clock()
    pixels, test_pixels, odd = cifar(asked.data, asked.images)
    images, test = (torch.tensor(each).float() / 255 for each in (pixels, test_pixels))
    loading = clock.lap()
    model = Autoencoder()
    loss, epochs = fit(model, images, asked.epochs)
    fitting = clock.lap()
    threshold = np.percentile(score(model, images)[0], 99)
    deciding = clock.lap()
    scores, _ = score(model, test)  # this pass warms up
    clock.lap()
    seconds = []
    for _ in range(PASSES):
        score(model, test)
        seconds.append(clock.lap())
    tell(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "seconds_epochs": epochs,
            "seconds_threshold": deciding,
            "loss": loss,
            "auroc": auroc(scores, odd),
            "detection_rate": float((scores[odd] > threshold).mean()),
            "false_alarm_rate": float((scores[~odd] > threshold).mean()),
            "images_per_second": len(test) / float(np.median(seconds)),
            "versions": {"torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()
