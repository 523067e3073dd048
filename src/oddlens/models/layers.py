"""Layers and functions that several families share; all of them export to ONNX."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.ranks import ALONE

MOMENTUM, EPSILON = 0.1, 1e-5  # of batch normalization
SELF_DISTANCE_RATIO = 0.1  # a nearest distance below this share of the farthest one is that of an image to itself


def pad_to_multiple(batch: Tensor, multiple: int) -> Tensor:
    """Pad a batch (N, C, H, W) at the bottom and right, by its edges, until `multiple` divides both sides."""
    height, width = batch.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(batch, (0, right, 0, bottom), mode="replicate") if bottom or right else batch


def squareplus(values: Tensor) -> Tensor:
    """Map numbers to positive ones in the same order: large x hardly change, far negative x become 1 / |x|.

    (x + sqrt(x^2 + 4)) / 2 (Barron, "Squareplus", 2021), written without cancellation, so that relative errors stay
    small. A softplus would end in an exponential there, which runtimes round to 0.
    """
    magnitudes = values.abs()
    non_negative = (magnitudes + torch.sqrt(values.square() + 4)) / 2
    return torch.where(values > 0, non_negative, 1 / non_negative)


class SSIM(nn.Module):
    """Structural dissimilarity 1 - SSIM at each pixel, in 0..2 (Wang et al., IEEE TIP 2004).

    Gaussian window of 11 pixels and sigma 1.5, or the largest window of odd size that fits a smaller image;
    edges are reflected. Images are (N, C, H, W) in 0..1; the result is (N, H, W), the mean over the channels.
    """

    window: Tensor  # (C, 1, size, size)

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        side = min(11, height, width)
        size = side if side % 2 else side - 1
        offsets = torch.arange(size, dtype=torch.float32) - size // 2
        kernel = torch.exp(-(offsets**2) / (2 * 1.5**2))
        window = torch.outer(kernel, kernel) / kernel.sum() ** 2
        self.register_buffer("window", window.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Dissimilarity (N, H, W) of two batches (N, C, H, W); in float32, as variances are small differences."""
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
        margin = self.window.shape[-1] // 2
        padded = F.pad(batch, (margin, margin, margin, margin), mode="reflect")
        return F.conv2d(padded, self.window, groups=self.window.shape[0])


class ResizeTo(nn.Module):
    """Resize images of a fixed size to side x side: average pooling by a whole number, then bilinear."""

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.pool_size = (max(1, height // side), max(1, width // side))
        self.is_identity = (height, width) == (side, side)

    def forward(self, batch: Tensor) -> Tensor:
        """Resize (N, C, height, width) to (N, C, side, side)."""
        if self.is_identity:
            return batch
        pooled = F.avg_pool2d(batch, self.pool_size) if self.pool_size != (1, 1) else batch
        return F.interpolate(pooled, size=(self.side, self.side), mode="bilinear", align_corners=False)


def covariance_matrix(centered: Tensor) -> Tensor:
    """Covariance (D, D) of samples (N, D) that have mean 0."""
    return centered.T @ centered / len(centered)


def covariance_eigh(centered: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), ascending, and eigenvectors (D, D), as columns, of the covariance of centred samples (N, D).

    The covariance has the dtype of the samples; it is decomposed in `dtype`, by default in the same one.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance_matrix(centered).to(dtype or centered.dtype))
    return eigenvalues, eigenvectors


def ledoit_wolf_whitening(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of samples (N, D), and the matrix (D, D) that gives centred samples unit covariance.

    The covariance is shrunk towards a multiple of the identity, by as much as its sampling error calls for
    (Ledoit and Wolf, J. Multivariate Analysis 2004), so that few or constant samples do no harm.
    """
    samples = samples.double()
    mean = samples.mean(dim=0)
    centered = samples - mean
    empirical = covariance_matrix(centered)
    target = empirical.trace() / len(mean) * torch.eye(len(mean), dtype=samples.dtype, device=samples.device)
    dispersion = (empirical - target).square().sum()
    sampling_error = (centered.square().sum(dim=1).square().mean() - empirical.square().sum()) / len(samples)
    shrinkage = float((sampling_error / dispersion.clamp_min(1e-300)).clamp(0, 1))
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.lerp(empirical, target, shrinkage))
    min_variance = 1e-6 * float(samples.square().mean()) + 1e-12  # float32 cannot resolve less
    return mean.float(), (eigenvectors / eigenvalues.clamp_min(min_variance).sqrt()).float()


class WhitenedDistance(nn.Module):
    """Distance of features (N, D) from the training features: sqrt(1 + mean square of the whitened features).

    Over the training features that mean square is 1 or, owing to the shrinkage, less. The 1 under the root keeps the
    distance away from 0, where it would show little but a runtime's rounding.
    """

    mean: Tensor  # (D,)
    whitening: Tensor  # (D, D)

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))

    def fit(self, samples: Tensor) -> None:
        """Estimate mean and covariance from samples (N, D)."""
        mean, whitening = ledoit_wolf_whitening(samples)
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)

    def forward(self, features: Tensor) -> Tensor:
        """Distances (N,) of features (N, D)."""
        return (1 + ((features - self.mean) @ self.whitening).square().mean(dim=1)).sqrt()


class BatchNorm(nn.Module):
    """Batch normalization with nothing but floats in its state (that of PyTorch also counts batches).

    Where several processes train, a batch is that of all of them (PyTorch's own layer for that needs GPUs).
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ranks = ALONE  # as in `Model`
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, batch: Tensor) -> Tensor:
        """Normalize each channel of (N, C, H, W): by the batch while training, by running statistics afterwards."""
        if self.training and self.ranks.size > 1:
            return self.normalize_over_ranks(batch)
        training = self.training
        return F.batch_norm(batch, self.mean, self.variance, self.weight, self.bias, training, MOMENTUM, EPSILON)

    def normalize_over_ranks(self, batch: Tensor) -> Tensor:
        """Normalize this process's share (n, C, H, W) of a batch by mean and variance of the whole batch."""
        values = batch.float()
        count = values.new_tensor([float(values[:, 0].numel())])
        total = self.ranks.sum(torch.cat([values.sum(dim=(0, 2, 3)), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        centered = values - mean[:, None, None]
        variance = self.ranks.sum(centered.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance * count / (count - 1), MOMENTUM)
        scale = self.weight * (variance + EPSILON).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(batch.dtype)


def drop_self_distance(distances: Tensor) -> Tensor:
    """Drop the distance of an image to itself: ascending nearest distances (..., k + 1) -> (..., k).

    It is far smaller than the others; where there is none, the largest distance is dropped instead.
    """
    is_self = distances[..., :1] < SELF_DISTANCE_RATIO * distances[..., -1:]
    return torch.where(is_self, distances[..., 1:], distances[..., :-1])


def fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
