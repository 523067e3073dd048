"""The autoencoder family: what cannot be rebuilt from what normal images taught is anomalous."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config import AutoencoderSettings, InputSpec
from oddlens.models.base import Model, Scored
from oddlens.models.layers import SSIM, pad_to_multiple


class Autoencoder(Model):
    """Convolutional autoencoder with the two seed architectures; see `AutoencoderSettings`.

    The anomaly map is the reconstruction error at each pixel (the channels' mean), the anomaly score
    its mean over the region of interest, or the mean of its largest `top_percent`.
    """

    def __init__(self, settings: AutoencoderSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        self.multiple = 2 ** len(settings.widths)
        build = pooling_network if settings.architecture == "pooling" else strided_network
        self.encoder, self.decoder = build(settings, spec)
        uses_ssim = "ssim" in (settings.loss, settings.error)
        self.ssim = SSIM(spec.channels, spec.height, spec.width) if uses_ssim else None

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> the reconstruction before its sigmoid, same shape."""
        decoded: Tensor = self.decoder(self.encoder(pad_to_multiple(batch, self.multiple)))
        return decoded[:, :, : self.spec.height, : self.spec.width]

    def loss(self, batch: Tensor) -> Tensor:
        """Mean reconstruction loss; with `noise`, of the clean batch from a noisy one."""
        noisy = batch + self.settings.noise * torch.randn_like(batch) if self.settings.noise else batch
        logits = self.logits(noisy).float()
        with torch.autocast(batch.device.type, enabled=False):  # differences of small numbers need float32
            if self.settings.loss == "bce":
                errors = F.binary_cross_entropy_with_logits(logits, batch, reduction="none").mean(dim=1)
            else:
                errors = self.errors(batch, torch.sigmoid(logits), self.settings.loss)
            return self.mean_over_roi(errors).mean()

    def forward(self, batch: Tensor) -> Scored:
        """Reconstruct a batch (N, C, H, W) and score its errors."""
        reconstruction = torch.sigmoid(self.logits(batch))
        anomaly_map = self.errors(batch, reconstruction, self.settings.error) * self.roi
        if self.settings.top_percent == 100:
            score = self.mean_over_roi(anomaly_map)
        else:
            score = self.top_mean_over_roi(anomaly_map, self.settings.top_percent)
        return Scored(score, anomaly_map, reconstruction)

    def errors(self, batch: Tensor, reconstruction: Tensor, kind: str) -> Tensor:
        """(N, C, H, W) twice -> (N, H, W): the error at each pixel."""
        if kind == "ssim":
            assert self.ssim is not None  # noqa: S101 - made in __init__ whenever a setting names it
            dissimilarity: Tensor = self.ssim(batch, reconstruction)
            return dissimilarity
        difference = batch - reconstruction
        return (difference.abs() if kind == "l1" else difference.square()).mean(dim=1)


def pooling_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Module, nn.Module]:
    """The MNIST seed: 3x3 convolution + max-pooling down, up-sampling + 3x3 convolution back.

    With widths (32, 64): C-32, ReLU, pool, 32-64, ReLU, pool, 64-64, ReLU | up, 64-32, ReLU, up, 32-C.
    """
    widths = (spec.channels, *settings.widths)
    down: list[nn.Module] = []
    for before, after in pairwise(widths):
        down += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    down += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU()]
    up: list[nn.Module] = []
    for before, after in pairwise(reversed(widths)):
        up += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])


def strided_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Module, nn.Module]:
    """The CIFAR-10 seed: 3x3 stride-2 convolutions, a linear bottleneck, 4x4 stride-2 transposed convolutions.

    With widths (32, 64, 128): C-32-64-128 with ReLU, linear to `latent_dim` | linear back, 128-64-32-C
    with ReLU between.
    """
    widths = (spec.channels, *settings.widths)
    multiple = 2 ** len(settings.widths)
    bottom = (widths[-1], -(-spec.height // multiple), -(-spec.width // multiple))
    features = bottom[0] * bottom[1] * bottom[2]
    down: list[nn.Module] = []
    for before, after in pairwise(widths):
        down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    down += [nn.Flatten(), nn.Linear(features, settings.latent_dim)]
    up: list[nn.Module] = [nn.Linear(settings.latent_dim, features), nn.Unflatten(1, bottom)]
    for before, after in pairwise(reversed(widths)):
        up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])
