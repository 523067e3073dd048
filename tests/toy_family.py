"""A family of detectors defined outside of oddlens: settings and a model, and nothing else to touch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FAMILIES, FamilySettings
from oddlens.models import registry
from oddlens.models.base import Model, ModelOutput


@contextlib.contextmanager
def toy_family() -> Iterator[FamilySettings]:
    """Define and register the family `toy` for as long as the block lasts; gives its settings."""

    class ToySettings(FamilySettings):
        """Distance to the mean of some training images."""

        family: Literal["toy"] = "toy"
        share: float = 0.5  # of the training images

    @registry.register_family(settings=ToySettings)
    class Toy(Model):
        """Squared difference from the mean of randomly drawn training images."""

        settings: ToySettings
        mean: Tensor  # (1, C, H, W)

        def __init__(self, settings: ToySettings, spec: InputSpec) -> None:
            super().__init__(spec)
            self.settings = settings
            self.register_buffer("mean", torch.zeros(1, spec.channels, spec.height, spec.width))

        def fit_closed_form(self, images: Tensor, seed: int) -> None:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
            drawn = images[order[: max(1, int(self.settings.share * len(images)))]]
            self.mean.copy_(torch.cat(list(self.batches(drawn))).mean(dim=0, keepdim=True))

        def forward(self, batch: Tensor) -> ModelOutput:
            anomaly_map = (batch - self.mean).square().mean(dim=1) * self.roi
            return ModelOutput(self.mean_over_roi(anomaly_map), anomaly_map, None)

    try:
        yield ToySettings()
    finally:
        del FAMILIES["toy"], registry._REGISTRY[ToySettings]


@contextlib.contextmanager
def nearest_family() -> Iterator[FamilySettings]:
    """Define and register the family `nearest`, which supports leave-one-out, for as long as the block lasts."""

    class NearestSettings(FamilySettings):
        """Distance to the nearest training image."""

        family: Literal["nearest"] = "nearest"

    @registry.register_family(settings=NearestSettings)
    class Nearest(Model):
        """Squared distance to the nearest training image; the map is the difference from it."""

        supports_leave_one_out = True
        settings: NearestSettings
        rows: Tensor  # (M, C, H, W)

        def __init__(self, settings: NearestSettings, spec: InputSpec) -> None:
            super().__init__(spec)
            self.settings = settings
            self.banks = {"rows": 10_000}
            self.register_buffer("rows", torch.zeros(1, spec.channels, spec.height, spec.width))

        def fit_closed_form(self, images: Tensor, seed: int) -> None:
            rows = torch.cat(list(self.batches(images)))
            self.rows.resize_(rows.shape).copy_(rows)

        def forward(self, batch: Tensor) -> ModelOutput:
            distances = (batch[:, None] - self.rows).square().mean(dim=(2, 3, 4))  # (N, M)
            if self.left_out is not None:
                ignored = self.left_out.ignores(torch.arange(len(self.rows)))
                distances = distances.masked_fill(ignored, torch.inf)
            nearest = self.rows[distances.argmin(dim=1)]
            return ModelOutput(distances.amin(dim=1), (batch - nearest).square().mean(dim=1) * self.roi, None)

    try:
        yield NearestSettings()
    finally:
        del FAMILIES["nearest"], registry._REGISTRY[NearestSettings]
