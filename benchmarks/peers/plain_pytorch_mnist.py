"""The MNIST reference recipe as a plain PyTorch script: DataLoader, Adam, float32, and a percentile as threshold.

    python benchmarks/peers/plain_pytorch_mnist.py --data DIR

There are no optimizations beyond those of a straightforward script.
"""

from __future__ import annotations

import numpy as np
import torch
from raw import Clock, make_parser, mnist, print_json
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
    """Return the mean squared errors (N,)."""
    model.eval()
    with torch.inference_mode():
        scores = [
            (batch - model(batch)).square().mean(dim=(1, 2, 3))
            for (batch,) in DataLoader(TensorDataset(digits), batch_size=BATCH)
        ]
    return torch.cat(scores).numpy()


def main() -> None:
    """Load, fit, compute the threshold, and print the seconds of each step."""
    options = make_parser(__doc__.partition("\n")[0], epochs=10).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    clock = Clock()
    digits = torch.tensor(mnist(options.data)[: options.images, None]).float() / 255
    loading = clock.lap()
    model, criterion = network(), nn.BCELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loader = DataLoader(TensorDataset(digits), batch_size=BATCH, shuffle=True)
    epoch, seconds, mean = Clock(), [], 0.0
    for _ in range(options.epochs):
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
    print_json(
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
