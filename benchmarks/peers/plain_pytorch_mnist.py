"""The MNIST seed as a plain PyTorch script: a DataLoader, Adam, the usual loop in float32; a percentile decides.

    python benchmarks/peers/plain_pytorch_mnist.py --data DIR

Nothing is done for speed that a first script would not do.
"""

from __future__ import annotations

import numpy as np
import torch
from raw import Clock, mnist, options, tell
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 128


def network() -> nn.Module:
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


def errors(model: nn.Module, digits: torch.Tensor) -> np.ndarray:
    """Each picture's mean squared error (N,)."""
    model.eval()
    with torch.inference_mode():
        found = [
            (batch - model(batch)).square().mean(dim=(1, 2, 3))
            for (batch,) in DataLoader(TensorDataset(digits), batch_size=BATCH)
        ]
    return torch.cat(found).numpy()


def main() -> None:
    """Load, fit, decide, and say how long each took."""
    asked = options(__doc__.partition("\n")[0], epochs=10).parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    clock = Clock()
    digits = torch.tensor(mnist(asked.data)[: asked.images, None]).float() / 255
    loading = clock.lap()
    model, criterion = network(), nn.BCELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loader = DataLoader(TensorDataset(digits), batch_size=BATCH, shuffle=True)
    epoch, seconds, mean = Clock(), [], 0.0
    for _ in range(asked.epochs):
        total = 0.0
        for (batch,) in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), batch)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        mean = total / len(digits)
        seconds.append(epoch.lap())
    fitting = clock.lap()
    threshold = np.percentile(errors(model, digits), 99)
    tell(
        {
            "seconds_load": loading,
            "seconds_fit": fitting,
            "seconds_epochs": seconds,
            "seconds_threshold": clock.lap(),
            "threshold": float(threshold),
            "loss": mean,
            "images": len(digits),
            "versions": {"torch": torch.__version__},
        }
    )


if __name__ == "__main__":
    main()
