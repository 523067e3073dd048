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
from oddlens.models.pretrained.class_ratio import MIN_SPREAD, ClassRatio
from oddlens.models.pretrained.gaussians import MIN_IMAGES, PlaceGaussians, fit_gaussians
from oddlens.models.pretrained.scale import Scale
from oddlens.models.registry import register_family


@register_family(settings=FeaturesSettings)
class PooledFeatures(PretrainedModel):
    """Gaussian distributions of the mean features of an image, for each depth; see `FeaturesSettings`.

    The score is the sum of the Mahalanobis distances and the weighted ratio of classes, each in deviations from its
    mean over training images which are left out. The map has the distances at the places of the first depth.
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
        self.distance_scales = nn.ModuleList(Scale(1.0) for _ in settings.depths)
        self.classes: ClassRatio | None = None
        if self.backbone.n_classes:
            self.classes, self.class_scale = ClassRatio(self.backbone.n_classes), Scale(1.0)
            self.class_depth = depths.index(LAST_DEPTH)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit the Gaussians and the classes to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        index, batches = self.describe_training(images, seed)
        fit_gaussians([self.map], batches, len(index))
        left_out = fit_gaussians(self.images, [batch[1:] for batch in batches], len(index))
        if len(index) >= MIN_IMAGES:
            for scale, distances in zip(self.distance_scales, left_out, strict=True):
                cast(Scale, scale).fit(distances)
        if self.classes is not None:
            ratios = self.classes.fit(torch.cat([self.logits(batch) for batch in batches]), len(index))
            if len(index) >= MIN_IMAGES:
                self.class_scale.fit(ratios, MIN_SPREAD)

    def describe(self, batch: Tensor) -> list[Tensor]:
        """Features (N, D, rows, columns) at the places of the first depth, and means (N, D, 1, 1) of each depth."""
        features = self.backbone(self.enlarge(batch))
        return [smooth(features[0], self.strides[0]), *map(mean_features, features)]

    def logits(self, features: list[Tensor]) -> Tensor:
        """Logits (N, n_classes) of the backbone's classes, from what `describe` gives."""
        return self.backbone.classify(features[1 + self.class_depth].flatten(1))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map which places are unusual."""
        features = self.describe(batch)
        parts = zip(self.images, self.distance_scales, features[1:], strict=False)
        score = torch.stack([scale(gaussian(values).flatten()) for gaussian, scale, values in parts]).sum(dim=0)
        if self.classes is not None:
            score = score + self.settings.class_weight * self.class_scale(self.classes(self.logits(features)))
        return ModelOutput(squareplus(score), self.full_map(self.map(features[0])), None)


def all_depths(settings: FeaturesSettings) -> tuple[int, ...]:
    """The depths of the settings, and the one before the classifier where classes are compared."""
    adds = settings.compares_classes and LAST_DEPTH not in settings.depths
    return (*settings.depths, LAST_DEPTH) if adds else settings.depths
