"""The defects family: a network that learns to mark synthetic defects, made from the normal images themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import DefectsSettings
from oddlens.data import synthetic_defects
from oddlens.data.image_io import Pixels
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.layers import BatchNorm, pad_to_multiple

SMALLEST = 4  # pixels of the shorter side that the coarsest level has at least
COARSE = 4  # pixels a side whose mean is one value of the surroundings
FAINT = 0.003  # of the value range: detail so faint is not made to look like more
RARE = 5.0  # how much more a defect's pixel counts in training than a clean one
HEAD_GAIN = 8.0  # by which the last layer learns faster than the others: most pixels are no defect, soon learnt
ELSEWHERE = 0.5  # how much the evidence in the rest of the picture counts at a place: defects are seldom alone
BEND = 4.0  # how softly evidence goes over into zero, in logits


class DefectSegmentation(GradientModel):
    """A small U-Net that marks defects; see `DefectsSettings`.

    It sees the (shrunk) picture at half its size, four pixels as one, beside what each has over its surroundings. Half
    of each training batch gets fresh synthetic defects, made from the normal images themselves; the other
    half stays clean. Evidence is the logits, bent smoothly into positive numbers: the anomaly score is the mean of its
    largest `top_percent`, the anomaly map it and half its mean over the picture.
    """

    settings: DefectsSettings

    def __init__(self, settings: DefectsSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings, self.top_percent = settings, settings.top_percent
        shorter = min(spec.height, spec.width) // (2 * settings.shrink)
        levels = 1 + sum(shorter >> level >= SMALLEST for level in range(1, len(settings.widths)))
        self.multiple = settings.shrink * max(COARSE, 2**levels)
        self.finest = 2 * settings.shrink  # pixels a side that are one value of the evidence
        widths = settings.widths[:levels]
        self.enter = convolution(8 * spec.channels, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(convolution(before, after), convolution(after, after)) for before, after in pairwise(widths)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(after, before, 1) for before, after in pairwise(widths))
        self.up = nn.ModuleList(convolution(before, before) for before in widths[:-1])
        self.head = nn.Linear(widths[0], 1)
        for parameter in self.head.parameters():  # so that the untrained loss does not depend on the defects drawn
            nn.init.zeros_(parameter)

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, h, w): evidence for a defect, at half the (padded and shrunk) size."""
        picture = pad_to_multiple(batch, self.multiple)
        if self.settings.shrink > 1:
            picture = F.avg_pool2d(picture, self.settings.shrink)
        detail = picture - surroundings(picture)
        usual = torch.sqrt(detail.square().mean(dim=(1, 2, 3), keepdim=True) + FAINT**2)
        finest = F.pixel_unshuffle(torch.cat([picture, detail / usual], dim=1), 2)
        levels = [self.enter(finest)]
        for step in self.down:
            levels.append(step(F.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for narrow, step, skipped in zip(reversed(self.narrow), reversed(self.up), reversed(levels), strict=True):
            features = step(skipped + F.interpolate(narrow(features), scale_factor=2.0, mode="nearest"))
        evidence: Tensor = HEAD_GAIN * self.head(features.movedim(1, 3)).movedim(3, 1)
        return evidence

    def loss(self, batch: Tensor) -> Tensor:
        """Cross-entropy of the marked pixels, and of the images by their score; on fresh defects."""
        damaged, masks = self.damage(mirrored(batch) if self.covers_whole_image else batch)
        logits = self.logits(photographed(damaged, self.roi)).float()
        targets = F.max_pool2d(pad_to_multiple(masks[:, None], self.multiple), self.finest)
        weights = 1 + (RARE - 1) * targets
        pixels = F.binary_cross_entropy_with_logits(logits, targets, weights) / weights.mean()
        images = F.binary_cross_entropy_with_logits(self.strongest(logits), targets.amax(dim=(1, 2, 3)))
        return pixels + 0.1 * images

    def damage(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Put synthetic defects into every second image of (N, C, H, W); gives also the masks (N, H, W), 0 or 1."""
        seed, full = int(torch.randint(2**31, ())), self.spec.value_max
        images = (batch * full).round().permute(0, 2, 3, 1).cpu().numpy().astype(self.spec.dtype)
        pixels: Pixels = images.copy()
        masks = np.zeros(pixels.shape[:3], dtype=np.float32)
        pixels[::2], masks[::2] = synthetic_defects.add_defects(images[::2], seed, full)
        damaged = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).to(batch.device) * (1 / full)
        return damaged * self.roi, torch.from_numpy(masks).to(batch.device) * self.roi

    def strongest(self, logits: Tensor) -> Tensor:
        """(N, 1, h, w) -> (N,): the mean of the largest `top_percent` of an image's logits."""
        values = logits.flatten(1)
        count = max(1, round(values.shape[1] * self.top_percent / 100))
        return values.topk(count, dim=1).values.mean(dim=1)

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) by its evidence for defects."""
        found, scale = self.logits(batch), float(self.finest)
        logits = F.interpolate(found, scale_factor=scale, mode="bilinear", align_corners=False)
        logits = logits[:, 0, : self.spec.height, : self.spec.width]
        evidence = 0.5 * (logits + torch.sqrt(logits * logits + BEND**2)) * self.roi
        everywhere = self.mean_over_roi(evidence)[:, None, None]
        anomaly_map = (evidence + ELSEWHERE * everywhere) * self.roi
        return ModelOutput(self.top_mean_over_roi(evidence, self.top_percent), anomaly_map, None)


def convolution(before: int, after: int) -> nn.Sequential:
    """A 3x3 convolution, normalised over the batch; leaky, so that no two scores end at the same floor."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), BatchNorm(after), nn.LeakyReLU(0.1))


def surroundings(batch: Tensor) -> Tensor:
    """(N, C, H, W) -> the same: the mean around each pixel, over about three times `COARSE`; sides divide by it."""
    coarse = F.avg_pool2d(F.avg_pool2d(batch, COARSE), 3, stride=1, padding=1, count_include_pad=False)
    return F.interpolate(coarse, scale_factor=float(COARSE), mode="bilinear", align_corners=False)


def mirrored(batch: Tensor) -> Tensor:
    """Some images of (N, C, H, W) mirrored, left to right, top to bottom, or both."""
    for side in (2, 3):
        chosen = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
        batch = torch.where(chosen, batch.flip(side), batch)
    return batch


def photographed(batch: Tensor, roi: Tensor) -> Tensor:
    """The same things (N, C, H, W) under other light: gamma, gain and offset drawn for each image."""
    gamma, gain, offset = torch.rand(3, len(batch), 1, 1, 1, device=batch.device)
    lit: Tensor = batch.clamp(min=1e-6) ** torch.exp(0.6 * (gamma - 0.5)) * torch.exp(0.6 * (gain - 0.5))
    lit += 0.1 * (offset - 0.5)
    return lit * roi
