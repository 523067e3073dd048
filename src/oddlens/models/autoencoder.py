"""The autoencoder family: what cannot be rebuilt from what normal images taught is anomalous."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.conv_variants import Conv2d, ConvTranspose2d, InputsFirst, UpsampledConv2d, multiplies_in_bf16
from oddlens.models.layers import SSIM, WhitenedDistance, pad_to_multiple
from oddlens.models.native import NativeNetwork

CELLS = 2  # sides of the grid on which hidden activations are averaged before whitening
MAX_GRID_CHANNELS = 128  # channels above which they are averaged over the whole picture instead
MAX_WHITENING_IMAGES = 10_000  # training images at most from which the whitening is taken


class Autoencoder(GradientModel):
    """Convolutional autoencoder with the two seed architectures; see `AutoencoderSettings`.

    The anomaly map is the reconstruction error at each pixel (the channels' mean). The anomaly score is its mean over
    the region of interest, or the mean of its largest `top_percent`; or, with `score`, what the encoder's hidden
    activations say: SAP and NAP (Kim et al., "RaPP", ICLR 2020) compare the image's with its reconstruction's. SAP is
    the mean squared difference over all hidden units. NAP whitens the differences, and as a covariance of all units
    would outgrow any picture's network, it takes their averages on a 2 x 2 grid, or over the whole picture where a
    layer has more than 128 channels.
    """

    settings: AutoencoderSettings

    def __init__(self, settings: AutoencoderSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        self.multiple = 2 ** len(settings.widths)
        build = pooling_network if settings.architecture == "pooling" else strided_network
        self.encoder, self.decoder = build(settings, spec)
        uses_ssim = "ssim" in (settings.loss, settings.error)
        self.ssim = SSIM(spec.channels, spec.height, spec.width) if uses_ssim else None
        self.whitened = WhitenedDistance(evidence_size(settings)) if settings.score in ("nap", "latent") else None

    def hidden(self, batch: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the encoder's activations, layer by layer; the last is the bottleneck."""
        values, found = pad_to_multiple(batch, self.multiple), []
        for layer in self.encoder:
            values = layer(values)
            if isinstance(layer, nn.ReLU | nn.Linear):
                found.append(values)
        return found

    def logits(self, bottleneck: Tensor) -> Tensor:
        """The bottleneck -> the reconstruction (N, C, H, W) before its sigmoid."""
        decoded: Tensor = self.decoder(bottleneck)
        return decoded[:, :, : self.spec.height, : self.spec.width]

    @functools.cached_property
    def native(self) -> NativeNetwork | None:
        """Encoder and decoder by the kernels in C, if that can be."""
        height, width = (-(-side // self.multiple) * self.multiple for side in (self.spec.height, self.spec.width))
        return NativeNetwork.of([*self.encoder, *self.decoder], height, width, self.spec.channels)

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their own."""
        return {name: value for name, value in self.__dict__.items() if name != "native"}

    def train(self, mode: bool = True) -> Self:
        """PyTorch's switch between learning and scoring; memory of the other is let go."""
        if found := self.__dict__.get("native"):
            found.idle.clear()
        return super().train(mode)

    @property
    def scored_by_errors(self) -> bool:
        """Whether the score is made of errors that the kernels know, and of nothing else."""
        return self.settings.score == "error" and self.settings.error != "ssim"

    @property
    def uses_all_threads(self) -> bool:
        """The kernels do."""
        return self.scored_by_errors and self.native is not None

    def native_for(self, batch: Tensor) -> NativeNetwork | None:
        """The kernels, where they are there and can do what is asked for."""
        here = (self.roi.device.type, self.roi.dtype, batch.dtype) == ("cpu", torch.float32, torch.float32)
        usual = batch.shape[1:] == (self.spec.channels, self.spec.height, self.spec.width) and not batch.requires_grad
        return self.native if here and usual else None

    def learned_logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> the reconstruction before its sigmoid, float32, in the fastest form."""
        if multiplies_in_bf16(batch) and (native := self.native_for(batch)):
            logits = native.logits(pad_to_multiple(batch, self.multiple))
            return logits[:, :, : self.spec.height, : self.spec.width]
        return self.logits(self.hidden(batch)[-1]).float()

    def loss(self, batch: Tensor) -> Tensor:
        """Mean reconstruction loss; with `noise`, of the clean batch from a noisy one."""
        noisy = batch + self.settings.noise * torch.randn_like(batch) if self.settings.noise else batch
        logits = self.learned_logits(noisy)
        with torch.autocast(batch.device.type, enabled=False):  # differences of small numbers need float32
            if self.settings.loss == "ssim":
                return self.mean_over_roi(self.errors(batch, torch.sigmoid(logits), "ssim")).mean()
            share = self.roi_pixels / self.roi.numel()  # outside the region, pixels are 0 and count for nothing
            if self.settings.loss == "bce":
                weight = None if self.covers_whole_image else self.roi / share
                return F.binary_cross_entropy_with_logits(logits, batch, weight)
            rebuilt = torch.sigmoid(logits) if self.covers_whole_image else torch.sigmoid(logits) * self.roi
            return (F.l1_loss if self.settings.loss == "l1" else F.mse_loss)(rebuilt, batch) / share

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Take the whitening from the training images, or from as many of them, spread over all."""
        if self.whitened is None:
            return
        chosen, found = images[:: -(-len(images) // MAX_WHITENING_IMAGES)], []
        for batch in self.batches(chosen):
            hidden = self.hidden(batch)
            found.append(self.evidence(hidden, torch.sigmoid(self.logits(hidden[-1]))))
        self.whitened.fit(torch.cat(found))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Reconstruct a batch (N, C, H, W) and score it."""
        hidden, reconstruction, errors = self.reconstructed(batch)
        anomaly_map = errors if self.covers_whole_image else errors * self.roi
        if self.whitened is not None:
            score = self.whitened(self.evidence(hidden, reconstruction))
        elif self.settings.score == "sap":
            differences = torch.cat([each.flatten(1) for each in self.differences(hidden, reconstruction)], dim=1)
            score = differences.square().mean(dim=1)
        elif self.settings.top_percent == 100:
            score = self.mean_over_roi(anomaly_map)
        else:
            score = self.top_mean_over_roi(anomaly_map, self.settings.top_percent)
        return ModelOutput(score, anomaly_map, reconstruction)

    def reconstructed(self, batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """(N, C, H, W) -> hidden activations, the reconstruction (N, C, H, W) and its errors (N, H, W).

        Where the score needs no hidden activations there may be none.
        """
        kind, (height, width) = self.settings.error, batch.shape[2:]
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        scores_alone = self.scored_by_errors and torch.is_inference_mode_enabled() and not traced
        if scores_alone and kind != "ssim" and (native := self.native_for(batch)):
            rebuilt, errors = native.errors(pad_to_multiple(batch, self.multiple), kind, bf16=multiplies_in_bf16(batch))
            return [], rebuilt[:, :, :height, :width], errors[:, :height, :width]
        hidden = self.hidden(batch)
        reconstruction = torch.sigmoid(self.logits(hidden[-1]).float())  # differences of small numbers need float32
        return hidden, reconstruction, self.errors(batch, reconstruction, kind)

    def differences(self, hidden: list[Tensor], reconstruction: Tensor) -> list[Tensor]:
        """Hidden activations minus those of the reconstruction, layer by layer."""
        again = self.hidden(reconstruction * self.roi)
        return [first - second for first, second in zip(hidden, again, strict=True)]

    def evidence(self, hidden: list[Tensor], reconstruction: Tensor) -> Tensor:
        """(N, D): what is whitened."""
        layers = hidden[-1:] if self.settings.score == "latent" else self.differences(hidden, reconstruction)
        return torch.cat([average_on_grid(values) for values in layers], dim=1)

    def errors(self, batch: Tensor, reconstruction: Tensor, kind: str) -> Tensor:
        """(N, C, H, W) twice -> (N, H, W): the error at each pixel."""
        if kind == "ssim":
            assert self.ssim is not None  # noqa: S101 - made in __init__ whenever a setting names it
            dissimilarity: Tensor = self.ssim(batch, reconstruction)
            return dissimilarity
        difference = batch - reconstruction
        return (difference.abs() if kind == "l1" else difference.square()).mean(dim=1)


def average_on_grid(values: Tensor) -> Tensor:
    """Activations (N, C, h, w) -> (N, cells * C), averaged on a small grid; (N, D) stay as they are."""
    if values.ndim == 2:
        return values
    return F.adaptive_avg_pool2d(values, grid_side(values.shape[1])).flatten(1)


def grid_side(channels: int) -> int:
    """The side of the grid on which a layer of so many channels is averaged."""
    return CELLS if channels <= MAX_GRID_CHANNELS else 1


def evidence_size(settings: AutoencoderSettings) -> int:
    """How many features are whitened."""
    bottleneck = settings.widths[-1] * grid_side(settings.widths[-1]) ** 2
    if settings.architecture == "strided":
        bottleneck = settings.latent_dim
    before = sum(channels * grid_side(channels) ** 2 for channels in settings.widths)
    return bottleneck if settings.score == "latent" else before + bottleneck


def pooling_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Sequential, nn.Sequential]:
    """The MNIST seed: 3x3 convolution + max-pooling down, up-sampling + 3x3 convolution back.

    With widths (32, 64): C-32, pool, ReLU, 32-64, pool, ReLU, 64-64, ReLU | up + 64-32, ReLU, up + 32-C. Pooling before
    the ReLU gives the same as after it, for a quarter of the work.
    """
    widths = (spec.channels, *settings.widths)
    down: list[nn.Module] = []
    for before, after in pairwise(widths):
        down += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
    down += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU(inplace=True)]
    up: list[nn.Module] = []
    for before, after in pairwise(reversed(widths)):
        up += [UpsampledConv2d(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])


def strided_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Sequential, nn.Sequential]:
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
        down += [Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    down += [nn.Flatten(), InputsFirst(features, settings.latent_dim)]
    up: list[nn.Module] = [nn.Linear(settings.latent_dim, features), nn.Unflatten(1, bottom)]
    for before, after in pairwise(reversed(widths)):
        up += [ConvTranspose2d(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])
