"""The defects family: a network that segments synthetic defects pasted into normal images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import DefectsSettings
from oddlens.data import synthetic_defects
from oddlens.data.image_io import Pixels
from oddlens.models.base import GradientModel, ModelOutput
from oddlens.models.layers import BatchNorm, pad_to_multiple
from oddlens.models.registry import register_family

MIN_LEVEL_SIDE = 4  # pixels; lower bound on the shorter side of the coarsest level
SURROUNDINGS_POOL = 4  # pixels; side of the square whose mean is one value of the surroundings
MIN_DETAIL_STD = 0.003  # of the value range; fainter detail is not amplified
DEFECT_PIXEL_WEIGHT = 5.0  # in the training loss, relative to a normal pixel
HEAD_GAIN = 8.0  # of the logits; speeds up the last layer, which first learns that most pixels are normal
GLOBAL_EVIDENCE_WEIGHT = 0.5  # of the whole image's mean evidence at each pixel: defects are seldom alone
EVIDENCE_SMOOTHNESS = 4.0  # in logits; how gradually evidence approaches zero


@register_family(
    settings=DefectsSettings,
    default_training=TrainingSettings(
        epochs=100, epoch_images=256, batch_size=16, learning_rate=3e-3, optimizer="muon", schedule="one_cycle"
    ),
)
class DefectSegmentation(GradientModel):
    """A small U-Net that segments defects; see `DefectsSettings`.

    Its input is the (shrunk) image and the difference of each pixel to its surroundings, at half the size with four
    pixels as channels. Half of each training batch gets new synthetic defects, made from the normal images themselves;
    the other half stays clean. Evidence is a smooth positive function of the logits: the anomaly score is the mean of
    its largest `top_percent`; the anomaly map adds half its mean over the image.
    """

    settings: DefectsSettings

    def __init__(self, settings: DefectsSettings, spec: InputSpec) -> None:
        super().__init__(spec)
        self.settings, self.top_percent = settings, settings.top_percent
        min_side = min(spec.height, spec.width) // (2 * settings.shrink)
        levels = 1 + sum(min_side >> level >= MIN_LEVEL_SIDE for level in range(1, len(settings.widths)))
        self.multiple = settings.shrink * max(SURROUNDINGS_POOL, 2**levels)
        self.evidence_stride = 2 * settings.shrink  # pixels along each side for one logit
        widths = settings.widths[:levels]
        self.enter = conv_block(8 * spec.channels, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(inputs, outputs), conv_block(outputs, outputs))
            for inputs, outputs in pairwise(widths)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(outputs, inputs, 1) for inputs, outputs in pairwise(widths))
        self.up = nn.ModuleList(conv_block(inputs, inputs) for inputs in widths[:-1])
        self.head = nn.Linear(widths[0], 1)
        for parameter in self.head.parameters():  # so that the initial loss does not depend on the defects drawn
            nn.init.zeros_(parameter)

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, h, w): logits of a defect, at half the (padded and shrunk) size."""
        images = pad_to_multiple(batch, self.multiple)
        if self.settings.shrink > 1:
            images = F.avg_pool2d(images, self.settings.shrink)
        detail = images - surroundings_mean(images)
        detail_std = torch.sqrt(detail.square().mean(dim=(1, 2, 3), keepdim=True) + MIN_DETAIL_STD**2)
        pixels = F.pixel_unshuffle(torch.cat([images, detail / detail_std], dim=1), 2)
        levels = [self.enter(pixels)]
        for step in self.down:
            levels.append(step(F.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for narrow, step, skipped in zip(reversed(self.narrow), reversed(self.up), reversed(levels), strict=True):
            features = step(skipped + F.interpolate(narrow(features), scale_factor=2.0, mode="nearest"))
        evidence: Tensor = HEAD_GAIN * self.head(features.movedim(1, 3)).movedim(3, 1)
        return evidence

    def augment(self, batch: Tensor) -> tuple[Tensor, ...]:
        """A batch (N, C, H, W) with new synthetic defects, randomly flipped and lit, and their masks (N, H, W)."""
        defective, masks = self.add_defects(random_flip(batch) if self.covers_whole_image else batch)
        return random_lighting(defective, self.roi), masks

    def augmented_loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Cross-entropy of pixels, and of images by their score."""
        batch, masks = inputs
        logits = self.logits(batch).float()
        targets = F.max_pool2d(pad_to_multiple(masks[:, None], self.multiple), self.evidence_stride)
        weights = 1 + (DEFECT_PIXEL_WEIGHT - 1) * targets
        pixels = F.binary_cross_entropy_with_logits(logits, targets, weights) / self.ranks.mean(weights)
        images = F.binary_cross_entropy_with_logits(self.top_mean_logit(logits), targets.amax(dim=(1, 2, 3)))
        return pixels + 0.1 * images

    def add_defects(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Paste synthetic defects into every second image of (N, C, H, W); gives images and masks (N, H, W), 0 or 1."""
        seed, value_max = int(torch.randint(2**31, ())), self.spec.value_max
        images = (batch * value_max).round().permute(0, 2, 3, 1).cpu().numpy().astype(self.spec.dtype)
        pixels: Pixels = images.copy()
        masks = np.zeros(pixels.shape[:3], dtype=np.float32)
        pixels[::2], masks[::2] = synthetic_defects.add_defects(images[::2], seed, value_max)
        defective = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).to(batch.device) * (1 / value_max)
        return defective * self.roi, torch.from_numpy(masks).to(batch.device) * self.roi

    def top_mean_logit(self, logits: Tensor) -> Tensor:
        """(N, 1, h, w) -> (N,): mean of the largest `top_percent` of each image's logits."""
        values = logits.flatten(1)
        count = max(1, round(values.shape[1] * self.top_percent / 100))
        return values.topk(count, dim=1).values.mean(dim=1)

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) by its evidence for defects."""
        coarse_logits, scale = self.logits(batch), float(self.evidence_stride)
        logits = F.interpolate(coarse_logits, scale_factor=scale, mode="bilinear", align_corners=False)
        logits = logits[:, 0, : self.spec.height, : self.spec.width]
        evidence = 0.5 * (logits + torch.sqrt(logits * logits + EVIDENCE_SMOOTHNESS**2)) * self.roi
        global_evidence = self.mean_over_roi(evidence)[:, None, None]
        anomaly_map = (evidence + GLOBAL_EVIDENCE_WEIGHT * global_evidence) * self.roi
        return ModelOutput(self.top_mean_over_roi(evidence, self.top_percent), anomaly_map, None)


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, batch normalization and leaky ReLU, which keeps scores from ending at the same minimum."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm(outputs), nn.LeakyReLU(0.1))


def surroundings_mean(batch: Tensor) -> Tensor:
    """Mean around each pixel of (N, C, H, W), over about 3 times `SURROUNDINGS_POOL`, which must divide both sides."""
    coarse = F.avg_pool2d(F.avg_pool2d(batch, SURROUNDINGS_POOL), 3, stride=1, padding=1, count_include_pad=False)
    return F.interpolate(coarse, scale_factor=float(SURROUNDINGS_POOL), mode="bilinear", align_corners=False)


def random_flip(batch: Tensor) -> Tensor:
    """Flip images of (N, C, H, W) at random, vertically and horizontally."""
    for axis in (2, 3):
        flipped = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
        batch = torch.where(flipped, batch.flip(axis), batch)
    return batch


def random_lighting(batch: Tensor, roi: Tensor) -> Tensor:
    """Change the light of images (N, C, H, W): gamma, gain and offset are drawn for each."""
    gamma, gain, offset = torch.rand(3, len(batch), 1, 1, 1, device=batch.device)
    relit: Tensor = batch.clamp(min=1e-6) ** torch.exp(0.6 * (gamma - 0.5)) * torch.exp(0.6 * (gain - 0.5))
    relit += 0.1 * (offset - 0.5)
    return relit * roi
