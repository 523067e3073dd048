"""Small pieces that families share; all of them export to ONNX."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(batch: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) -> the same, its bottom and right edges repeated until both sides divide by `multiple`."""
    height, width = batch.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(batch, (0, right, 0, below), mode="replicate") if below or right else batch


class SSIM(nn.Module):
    """Structural dissimilarity 1 - SSIM at each pixel, in 0..2 (Wang et al., IEEE TIP 2004).

    Gaussian window of 11 pixels and sigma 1.5, or the largest odd window that fits a smaller image;
    edges are reflected. Images are (N, C, H, W) in 0..1; the result is (N, H, W), the channels' mean.
    """

    window: Tensor  # (C, 1, size, size)

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        side = min(11, height, width)
        size = side if side % 2 else side - 1
        steps = torch.arange(size, dtype=torch.float32) - size // 2
        line = torch.exp(-(steps**2) / (2 * 1.5**2))
        window = torch.outer(line, line) / line.sum() ** 2
        self.register_buffer("window", window.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare two batches (N, C, H, W); gives (N, H, W)."""
        mean1, mean2 = self._blur(first), self._blur(second)
        variance1 = self._blur(first * first) - mean1 * mean1
        variance2 = self._blur(second * second) - mean2 * mean2
        covariance = self._blur(first * second) - mean1 * mean2
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean1 * mean2 + c1) / (mean1 * mean1 + mean2 * mean2 + c1)
        structure = (2 * covariance + c2) / (variance1 + variance2 + c2)
        return (1 - luminance * structure).mean(dim=1)

    def _blur(self, batch: Tensor) -> Tensor:
        reach = self.window.shape[-1] // 2
        padded = F.pad(batch, (reach, reach, reach, reach), mode="reflect")
        return F.conv2d(padded, self.window, groups=self.window.shape[0])
