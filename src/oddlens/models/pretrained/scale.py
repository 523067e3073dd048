"""Values on the scale of normal images, so that several may be added."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_SPREAD = 1e-6  # of values of normal images that are all the same


class Scale(nn.Module):
    """Values in deviations from their mean on normal images, or times `gain` where it is not fitted."""

    mean: Tensor  # (1,)
    gain: Tensor  # (1,) 1 / the standard deviation

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("gain", torch.tensor([gain]))

    def fit(self, values: Tensor, min_spread: float = MIN_SPREAD) -> None:
        """Estimate mean and deviation of the values of normal images; the deviation is at least `min_spread`."""
        self.mean.copy_(values.mean())
        self.gain.copy_(1 / values.std().clamp_min(min_spread))

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, in deviations."""
        return (values - self.mean) * self.gain
