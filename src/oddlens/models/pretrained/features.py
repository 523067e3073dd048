"""The features family: how improbable a backbone's features of the whole image are; fitted in closed form.

After Rippel et al., "Modeling the distribution of normal data in pre-trained deep features for anomaly detection",
2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FeaturesSettings
from oddlens.models.base import ModelOutput
from oddlens.models.pretrained.base import PretrainedModel, mean_features
from oddlens.models.pretrained.gaussians import PlaceGaussians, fit_gaussians
from oddlens.models.registry import register_family


@register_family(settings=FeaturesSettings)
class PooledFeatures(PretrainedModel):
    """Gaussian distributions of the mean features of an image, for each depth; see `FeaturesSettings`.

    The score is the mean of the Mahalanobis distances, each relative to that of training images which are left out.
    The map has those at the places of the first depth.
    """

    settings: FeaturesSettings
    map: PlaceGaussians

    def __init__(self, settings: FeaturesSettings, spec: InputSpec) -> None:
        super().__init__(settings, settings.depths, settings.depths, spec, settings.side)
        self.settings = settings
        self.learns_mirrored = settings.mirror
        self.images = nn.ModuleList(PlaceGaussians(shape[0], 1, 1) for shape in self.shapes)
        self.map = PlaceGaussians(*self.shapes[0])

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit the Gaussians to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        index, batches = self.describe_training(images, seed)
        fit_gaussians(self.images, [[mean_features(part) for part in parts] for parts in batches], len(index))
        fit_gaussians([self.map], batches, len(index))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map which places are unusual."""
        features = self.describe(batch)
        distances = [
            gaussian(mean_features(values)).flatten() for gaussian, values in zip(self.images, features, strict=True)
        ]
        return ModelOutput(torch.stack(distances).mean(dim=0), self.full_map(self.map(features[0])), None)
