"""Small pieces that families share; all of them export to ONNX."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SELF_DISTANCE_RATIO = 0.1  # share of its neighbours' distance below which a picture's distance is that to itself


def pad_to_multiple(batch: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) -> the same, its bottom and right edges repeated until both sides divide by `multiple`."""
    height, width = batch.shape[-2:]
    below, right = -height % multiple, -width % multiple
    return F.pad(batch, (0, right, 0, below), mode="replicate") if below or right else batch


def positive(values: Tensor) -> Tensor:
    """Larger than 0, in the same order: large numbers hardly change, far negative x becomes 1 / |x|.

    That is (x + sqrt(x^2 + 4)) / 2 (Barron, "Squareplus", 2021), written so that nothing cancels: relative errors stay
    as small as they were, where a softplus makes them those of an exponential, which runtimes round to 0.
    """
    sizes = values.abs()
    above = (sizes + torch.sqrt(values.square() + 4)) / 2
    return torch.where(values > 0, above, 1 / above)


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
        """Compare two batches (N, C, H, W); gives (N, H, W). In float32 always: variances are small differences."""
        if torch.is_autocast_enabled(first.device.type):
            with torch.autocast(first.device.type, enabled=False):
                return self.forward(first.float(), second.float())
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


class ResizeTo(nn.Module):
    """Brings pictures of a fixed size to side x side: averaged down by a whole number first, then bilinear."""

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.shrink = (max(1, height // side), max(1, width // side))
        self.same = (height, width) == (side, side)

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, height, width) -> (N, C, side, side)."""
        if self.same:
            return batch
        smaller = F.avg_pool2d(batch, self.shrink) if self.shrink != (1, 1) else batch
        return F.interpolate(smaller, size=(self.side, self.side), mode="bilinear", align_corners=False)


def ledoit_wolf_whitening(samples: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) -> mean (D,) and a matrix (D, D) after which centred samples have the unit covariance.

    The covariance is shrunk towards a multiple of the unit matrix, by as much as its own uncertainty asks for
    (Ledoit and Wolf, J. Multivariate Analysis 2004), so that few samples and constant ones do no harm.
    """
    samples = samples.double()
    mean = samples.mean(dim=0)
    centred = samples - mean
    covariance = centred.T @ centred / len(samples)
    target = covariance.trace() / len(mean) * torch.eye(len(mean), dtype=samples.dtype, device=samples.device)
    spread = (covariance - target).square().sum()
    doubt = (centred.square().sum(dim=1).square().mean() - covariance.square().sum()) / len(samples)
    shrinkage = float((doubt / spread.clamp_min(1e-300)).clamp(0, 1))
    variances, directions = torch.linalg.eigh(torch.lerp(covariance, target, shrinkage))
    least = 1e-6 * float(samples.square().mean()) + 1e-12  # below it lies what float32 cannot tell apart
    return mean.float(), (directions / variances.clamp_min(least).sqrt()).float()


class WhitenedDistance(nn.Module):
    """How far (N, D) features lie from training ones: sqrt(1 + their mean square, whitened).

    Over the training features that mean square is 1 or, by the shrinkage, less. The 1 under the root keeps the
    distance away from 0, where a runtime's rounding would be all that it shows.
    """

    mean: Tensor  # (D,)
    whitening: Tensor  # (D, D)

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))

    def fit(self, samples: Tensor) -> None:
        """Take mean and covariance from samples (N, D)."""
        mean, whitening = ledoit_wolf_whitening(samples)
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) -> (N,)."""
        return (1 + ((features - self.mean) @ self.whitening).square().mean(dim=1)).sqrt()


class BatchNorm(nn.Module):
    """Batch normalisation with nothing but floats in its state (PyTorch's own also counts batches)."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> the same, each channel normalised: by the batch while training, by what was learned after."""
        return F.batch_norm(batch, self.mean, self.variance, self.weight, self.bias, self.training, 0.1)


def drop_self_distance(distances: Tensor) -> Tensor:
    """Distances (..., k + 1) to the nearest in a bank, rising -> (..., k): without a picture's distance to itself.

    That one is hardly any beside the others; where there is none, the farthest is left out.
    """
    itself = distances[..., :1] < SELF_DISTANCE_RATIO * distances[..., -1:]
    return torch.where(itself, distances[..., 1:], distances[..., :-1])


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
