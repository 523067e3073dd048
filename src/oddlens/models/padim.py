"""The padim family: how improbable a backbone's features are at each place of an image; fitted in closed form.

After Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", 2021,
with a covariance that is shrunk as the training images ask for, and with light that may vary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import PadimSettings
from oddlens.models.base import ModelOutput
from oddlens.models.gaussians import PlaceGaussians
from oddlens.models.pretrained import PretrainedModel, resize_maps
from oddlens.models.registry import register_family

MIN_MAP = 1e-3  # added to distances, so that a distance of 0 has a logarithm
TOLERATED_LIGHT = 3.0  # distance of an image's mean features, relative to that of normal ones, from which it counts


@register_family(settings=PadimSettings)
class Padim(PretrainedModel):
    """A Gaussian distribution at each place and depth; see `PadimSettings`.

    At each depth, a place has its Mahalanobis distance, relative to that of training images which are left out. The
    score has the mean over its depths; the map has the geometric mean, which depths must agree on.
    """

    settings: PadimSettings

    def __init__(self, settings: PadimSettings, spec: InputSpec) -> None:
        depths = sorted({*settings.depths, *settings.map_depths})
        super().__init__(settings, depths, settings.depths, spec)
        self.settings = settings
        self.gaussians = nn.ModuleList(PlaceGaussians(*shape) for shape in self.shapes)
        self.light = PlaceGaussians(self.shapes[-1][0], 1, 1) if self.light_varies else None
        self.scored = [depths.index(depth) for depth in settings.depths]
        self.mapped = [depths.index(depth) for depth in settings.map_depths]
        self.map_grid = max(self.shapes[i][1:] for i in self.mapped)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit the Gaussians to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained()
        index, described = self.describe_training(images, seed)
        for i, gaussian in enumerate(self.all_gaussians()):
            gaussian.fit(torch.cat([parts[i] for parts in described]), len(index))

    def all_gaussians(self) -> list[PlaceGaussians]:
        """The Gaussians of each depth, and those of the light where it varies."""
        modules = [*self.gaussians, *([] if self.light is None else [self.light])]
        return [module for module in modules if isinstance(module, PlaceGaussians)]

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map how far each place is from normal."""
        features = self.describe(batch)
        maps = [gaussian(values) for gaussian, values in zip(self.gaussians, features, strict=False)]
        scored = torch.stack([resize_maps(maps[i], self.grid) for i in self.scored]).mean(dim=0)
        score = self.top_mean(scored, self.settings.top_percent)
        if self.light is not None:
            score = score + F.relu(self.light(features[-1])[:, 0, 0] - TOLERATED_LIGHT)
        logs = torch.stack([resize_maps((maps[i] + MIN_MAP).log(), self.map_grid) for i in self.mapped])
        return ModelOutput(score, self.full_map(logs.mean(dim=0).exp()), None)
