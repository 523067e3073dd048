"""The autoencoder family: anomalies are what a network trained on normal images cannot reconstruct."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.errors import SettingsError
from oddlens.models.accelerators import AcceleratedNetwork, accelerate
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.conv_variants import Conv2d, ConvTranspose2d, InputMajorLinear, UpsampledConv2d, autocasts_to_bf16
from oddlens.models.layers import SSIM, WhitenedDistance, pad_to_multiple
from oddlens.models.registry import register_family

GRID_SIDE = 2  # of the grid on which hidden activations are averaged before whitening
MAX_GRID_CHANNELS = 128  # layers with more are averaged over the whole image instead
MAX_WHITENING_IMAGES = 10_000  # training images from which the whitening is estimated


@register_family(settings=AutoencoderSettings)
class Autoencoder(GradientModel):
    """Convolutional autoencoder with the architecture of a reference recipe; see `AutoencoderSettings`.

    The anomaly map is the reconstruction error at each pixel, averaged over the channels. The anomaly score is its
    mean over the region of interest, or the mean of its largest `top_percent`. With `score`, it is computed from the
    encoder's hidden activations instead: SAP and NAP (Kim et al., "RaPP", ICLR 2020) compare those of the image with
    those of its reconstruction. SAP is the mean squared difference over all hidden units. NAP whitens the differences;
    because the covariance of all units would be larger than the network, they are averaged on a 2 x 2 grid first, or
    over the whole image where a layer has more than 128 channels. "latent" whitens the bottleneck alone.
    """

    settings: AutoencoderSettings

    @classmethod
    def check_training(cls, family: str, changes: Mapping[str, object]) -> None:
        """Refuse Muon.

        Raises:
            SettingsError: the optimizer is muon.
        """
        if changes.get("optimizer") == "muon":
            raise SettingsError(f"muon is for networks with normalization layers; the {family} has none: use adam")

    def __init__(self, settings: AutoencoderSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings = settings
        self.multiple = 2 ** len(settings.widths)
        build = pooling_network if settings.architecture == "pooling" else strided_network
        self.encoder, self.decoder = build(settings, spec)
        uses_ssim = "ssim" in (settings.loss, settings.error)
        self.ssim = SSIM(spec.channels, spec.height, spec.width) if uses_ssim else None
        self.whitened = WhitenedDistance(n_whitened_features(settings)) if settings.score in ("nap", "latent") else None

    def hidden(self, batch: Tensor) -> list[Tensor]:
        """Activations of the encoder for a batch (N, C, H, W), layer by layer; the last is the bottleneck."""
        values, activations = pad_to_multiple(batch, self.multiple), []
        for layer in self.encoder:
            values = layer(values)
            if isinstance(layer, nn.ReLU | nn.Linear):
                activations.append(values)
        return activations

    def logits(self, bottleneck: Tensor) -> Tensor:
        """Reconstruction (N, C, H, W) of the bottleneck, before its sigmoid."""
        decoded: Tensor = self.decoder(bottleneck)
        return decoded[:, :, : self.spec.height, : self.spec.width]

    @functools.cached_property
    def accelerated(self) -> AcceleratedNetwork | None:
        """Encoder and decoder as run by an installed accelerator; None where none can run them."""
        height, width = (-(-side // self.multiple) * self.multiple for side in (self.spec.height, self.spec.width))
        return accelerate([*self.encoder, *self.decoder], height, width, self.spec.channels)

    def __getstate__(self) -> dict[str, Any]:
        """State without the accelerated network, which each copy builds for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "accelerated"}

    def train(self, mode: bool = True) -> Self:
        """Switch between training and scoring, and release an accelerator's memory of the other mode."""
        if accelerated := self.__dict__.get("accelerated"):
            accelerated.release()
        return super().train(mode)

    @property
    def scored_by_errors(self) -> bool:
        """Whether the score depends on nothing but errors that an accelerator computes."""
        return self.settings.score == "error" and self.settings.error != "ssim"

    @property
    def uses_all_threads(self) -> bool:
        """Whether an accelerator scores, which divides a batch between the threads."""
        return self.scored_by_errors and self.accelerated is not None

    def accelerated_for(self, batch: Tensor) -> AcceleratedNetwork | None:
        """The accelerated network if it supports this batch, else None."""
        is_float32_on_cpu = (self.roi.device.type, self.roi.dtype, batch.dtype) == ("cpu", torch.float32, torch.float32)
        fits = batch.shape[1:] == (self.spec.channels, self.spec.height, self.spec.width) and not batch.requires_grad
        return self.accelerated if is_float32_on_cpu and fits else None

    def training_logits(self, batch: Tensor) -> Tensor:
        """Reconstruction of a batch (N, C, H, W) before its sigmoid, in float32, computed the fastest way."""
        if autocasts_to_bf16(batch) and (network := self.accelerated_for(batch)):
            logits = network.logits(pad_to_multiple(batch, self.multiple))
            return logits[:, :, : self.spec.height, : self.spec.width]
        return self.logits(self.hidden(batch)[-1]).float()

    def augment(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The clean batch (N, C, H, W), and with `noise` a noisy one."""
        return batch, batch + self.settings.noise * torch.randn_like(batch) if self.settings.noise else batch

    def augmented_loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Mean loss of the clean batch reconstructed from the noisy one."""
        batch, noisy = inputs
        logits = self.training_logits(noisy)
        with torch.autocast(batch.device.type, enabled=False):  # differences of small numbers need float32
            if self.settings.loss == "ssim":
                return self.mean_over_roi(self.errors(batch, torch.sigmoid(logits), "ssim")).mean()
            roi_share = self.roi_pixels / self.roi.numel()  # pixels outside the region are 0 and add no loss
            if self.settings.loss == "bce":
                weight = None if self.covers_whole_image else self.roi / roi_share
                return F.binary_cross_entropy_with_logits(logits, batch, weight)
            rebuilt = torch.sigmoid(logits) if self.covers_whole_image else torch.sigmoid(logits) * self.roi
            return (F.l1_loss if self.settings.loss == "l1" else F.mse_loss)(rebuilt, batch) / roi_share

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Estimate the whitening from the training images, or from evenly spaced ones if there are too many."""
        if self.whitened is None:
            return
        sample, features = images[:: -(-len(images) // MAX_WHITENING_IMAGES)], []
        for batch in self.batches(sample):
            hidden = self.hidden(batch)
            features.append(self.whitening_features(hidden, torch.sigmoid(self.logits(hidden[-1]))))
        self.whitened.fit(torch.cat(features))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Reconstruct a batch (N, C, H, W) and score it."""
        hidden, reconstruction, errors = self.reconstruct(batch)
        anomaly_map = errors if self.covers_whole_image else errors * self.roi
        if self.whitened is not None:
            score = self.whitened(self.whitening_features(hidden, reconstruction))
        elif self.settings.score == "sap":
            differences = torch.cat([layer.flatten(1) for layer in self.differences(hidden, reconstruction)], dim=1)
            score = differences.square().mean(dim=1)
        elif self.settings.top_percent == 100:
            score = self.mean_over_roi(anomaly_map)
        else:
            score = self.top_mean_over_roi(anomaly_map, self.settings.top_percent)
        return ModelOutput(score, anomaly_map, reconstruction)

    def reconstruct(self, batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Hidden activations, reconstruction (N, C, H, W) and errors (N, H, W) of a batch (N, C, H, W).

        The list of activations is empty where an accelerator runs, as the score does not need them then.
        """
        kind, (height, width) = self.settings.error, batch.shape[2:]
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        scores_alone = self.scored_by_errors and torch.is_inference_mode_enabled() and not traced
        if scores_alone and kind != "ssim" and (network := self.accelerated_for(batch)):
            padded, bf16 = pad_to_multiple(batch, self.multiple), autocasts_to_bf16(batch)
            rebuilt, errors = network.errors(padded, kind, bf16=bf16)
            return [], rebuilt[:, :, :height, :width], errors[:, :height, :width]
        hidden = self.hidden(batch)
        reconstruction = torch.sigmoid(self.logits(hidden[-1]).float())  # differences of small numbers need float32
        return hidden, reconstruction, self.errors(batch, reconstruction, kind)

    def differences(self, hidden: list[Tensor], reconstruction: Tensor) -> list[Tensor]:
        """Differences between hidden activations and those of the reconstruction, layer by layer."""
        rebuilt = self.hidden(reconstruction * self.roi)
        return [first - second for first, second in zip(hidden, rebuilt, strict=True)]

    def whitening_features(self, hidden: list[Tensor], reconstruction: Tensor) -> Tensor:
        """Features (N, D) that are whitened."""
        layers = hidden[-1:] if self.settings.score == "latent" else self.differences(hidden, reconstruction)
        return torch.cat([average_on_grid(values) for values in layers], dim=1)

    def errors(self, batch: Tensor, reconstruction: Tensor, kind: str) -> Tensor:
        """Error (N, H, W) at each pixel of two batches (N, C, H, W), averaged over the channels."""
        if kind == "ssim":
            if self.ssim is None:
                raise ValueError("no SSIM without loss or error 'ssim' in the settings; use 'mse' or 'l1'")
            dissimilarity: Tensor = self.ssim(batch, reconstruction)
            return dissimilarity
        difference = batch - reconstruction
        return (difference.abs() if kind == "l1" else difference.square()).mean(dim=1)


def average_on_grid(values: Tensor) -> Tensor:
    """Average activations (N, C, h, w) on a small grid: (N, grid cells * C); (N, D) are returned unchanged."""
    if values.ndim == 2:
        return values
    return F.adaptive_avg_pool2d(values, grid_side(values.shape[1])).flatten(1)


def grid_side(channels: int) -> int:
    """Side of the grid on which a layer with this number of channels is averaged."""
    return GRID_SIDE if channels <= MAX_GRID_CHANNELS else 1


def n_whitened_features(settings: AutoencoderSettings) -> int:
    """Number of features that are whitened."""
    bottleneck = settings.widths[-1] * grid_side(settings.widths[-1]) ** 2
    if settings.architecture == "strided":
        bottleneck = settings.latent_dim
    hidden = sum(channels * grid_side(channels) ** 2 for channels in settings.widths)
    return bottleneck if settings.score == "latent" else hidden + bottleneck


def pooling_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of the MNIST recipe: 3x3 convolution + max-pooling, up-sampling + 3x3 convolution.

    With widths (32, 64): C-32, pool, ReLU, 32-64, pool, ReLU, 64-64, ReLU | up + 64-32, ReLU, up + 32-C. Pooling before
    the ReLU gives the same as after it, for a quarter of the work.
    """
    widths = (spec.channels, *settings.widths)
    down: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        down += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
    down += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU(inplace=True)]
    up: list[nn.Module] = []
    for inputs, outputs in pairwise(reversed(widths)):
        up += [UpsampledConv2d(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])


def strided_network(settings: AutoencoderSettings, spec: InputSpec) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder of the CIFAR-10 recipe: strided 3x3 convolutions, a linear bottleneck, transposed 4x4 ones.

    With widths (32, 64, 128): C-32-64-128 with ReLU, linear to `latent_dim` | linear back, 128-64-32-C
    with ReLU between.
    """
    widths = (spec.channels, *settings.widths)
    multiple = 2 ** len(settings.widths)
    bottom = (widths[-1], -(-spec.height // multiple), -(-spec.width // multiple))
    features = bottom[0] * bottom[1] * bottom[2]
    down: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        down += [Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    down += [nn.Flatten(), InputMajorLinear(features, settings.latent_dim)]
    up: list[nn.Module] = [nn.Linear(settings.latent_dim, features), nn.Unflatten(1, bottom)]
    for inputs, outputs in pairwise(reversed(widths)):
        up += [ConvTranspose2d(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*down), nn.Sequential(*up[:-1])
