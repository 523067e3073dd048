"""The features family: how improbable a backbone's features of the whole image are; fitted in closed form.

Gaussians after Rippel et al., "Modeling the distribution of normal data in pre-trained deep features for anomaly
detection", 2021.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FeaturesSettings
from oddlens.models.backbones.efficientnet_lite import LAST_DEPTH
from oddlens.models.base import ModelOutput
from oddlens.models.layers import squareplus
from oddlens.models.pretrained.base import PretrainedModel, mean_features, smooth
from oddlens.models.pretrained.class_ratio import MIN_RATIO_SPREAD, ClassRatio
from oddlens.models.pretrained.direction_bank import DirectionBank
from oddlens.models.pretrained.gaussians import MIN_IMAGES, PlaceGaussians, fit_gaussians
from oddlens.models.pretrained.scale import MIN_SPREAD, Scale
from oddlens.models.registry import register_family


@register_family(settings=FeaturesSettings)
class PooledFeatures(PretrainedModel):
    """Gaussian distributions of the mean features of an image, for each depth; see `FeaturesSettings`.

    The score is the sum of the Mahalanobis distances, of the distance from the nearest normal images and of the
    weighted ratio of classes, each in deviations from its mean over training images which are left out. The map has the
    Mahalanobis distances at the places of the first depth.
    """

    settings: FeaturesSettings
    map: PlaceGaussians

    def __init__(self, settings: FeaturesSettings, spec: InputSpec) -> None:
        depths = all_depths(settings)
        super().__init__(settings, depths, settings.depths, spec, settings.side)
        self.settings = settings
        self.learns_mirrored = settings.mirror
        self.map = PlaceGaussians(*self.shapes[0])
        self.shapes = [self.shapes[0], *((shape[0], 1, 1) for shape in self.shapes)]  # as `describe` gives them
        self.images = nn.ModuleList(PlaceGaussians(*shape) for shape in self.shapes[1 : len(settings.depths) + 1])
        self.bank_depth = len(settings.depths) // 2
        self.bank = DirectionBank(self.shapes[1 + self.bank_depth][0])
        self.banks = {"bank.rows": settings.bank * len(self.copies)}
        self.classes: ClassRatio | None = None
        self.weights = [1.0] * (len(settings.depths) + 1)
        if self.backbone.n_classes:
            self.classes, self.class_depth = ClassRatio(self.backbone.n_classes), depths.index(LAST_DEPTH)
            self.weights.append(settings.class_weight)
        self.scales = nn.ModuleList(Scale(1.0) for _ in self.weights)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit all parts to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        index, batches = self.describe_training(images, seed)
        places, *means = (torch.cat(part) for part in zip(*batches, strict=True))
        fit_gaussians([self.map], [[places]], len(index))
        left_out = fit_gaussians(self.images, [means[: len(self.images)]], len(index))
        means = [self.gather_images(mean, len(index)) for mean in means]
        left_out.append(self.bank.fit(means[self.bank_depth].flatten(1), len(index), self.settings.bank))
        spreads = [MIN_SPREAD] * len(left_out)
        if self.classes is not None:
            left_out.append(self.classes.fit(self.logits(means), len(index)))
            spreads.append(MIN_RATIO_SPREAD)
        if len(index) >= MIN_IMAGES:
            for scale, values, spread in zip(self.scales, left_out, spreads, strict=True):
                cast(Scale, scale).fit(values, spread)

    def describe(self, batch: Tensor) -> list[Tensor]:
        """Features (N, D, rows, columns) at the places of the first depth, and means (N, D, 1, 1) of each depth."""
        features = self.backbone(self.enlarge(batch))
        return [smooth(features[0], self.strides[0]), *map(mean_features, features)]

    def logits(self, means: list[Tensor]) -> Tensor:
        """Logits (N, n_classes) of the backbone's classes, from the mean features of each depth."""
        return self.backbone.classify(means[self.class_depth].flatten(1))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map which places are unusual."""
        places, *means = self.describe(batch)
        measured = [gaussian(mean).flatten() for gaussian, mean in zip(self.images, means, strict=False)]
        measured.append(self.bank(means[self.bank_depth].flatten(1)))
        if self.classes is not None:
            measured.append(self.classes(self.logits(means)))
        parts = zip(self.scales, measured, self.weights, strict=True)
        score = torch.stack([weight * scale(values) for scale, values, weight in parts]).sum(dim=0)
        return ModelOutput(squareplus(score), self.full_map(self.map(places)), None)


def all_depths(settings: FeaturesSettings) -> tuple[int, ...]:
    """The depths of the settings, and the one before the classifier where classes are compared."""
    adds = settings.compares_classes and LAST_DEPTH not in settings.depths
    return (*settings.depths, LAST_DEPTH) if adds else settings.depths
