"""The ensemble family: several detectors, their raw scores brought to one scale and added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import EnsembleSettings, MemberModel
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.base import Model, ModelOutput
from oddlens.models.defect_segmentation import DefectSegmentation
from oddlens.models.layers import positive
from oddlens.models.patch_dictionary import Dictionary
from oddlens.models.rotation import Rotation

MEMBERS: dict[str, Callable[[Any, InputSpec], Model]] = {
    "autoencoder": Autoencoder,
    "dictionary": Dictionary,
    "transforms": Rotation,
    "defects": DefectSegmentation,
}


class CompositeModel(Model):
    """Base of the families that are made of several detectors."""

    def __init__(self, settings: Sequence[MemberModel], spec: InputSpec) -> None:
        super().__init__(spec)
        self.members = nn.ModuleList(MEMBERS[member.family](member, spec) for member in settings)
        every = enumerate(self.parts)
        self.banks = {f"members.{i}.{name}": most for i, member in every for name, most in member.banks.items()}

    @property
    def parts(self) -> list[Model]:
        """The members."""
        return [member for member in self.members if isinstance(member, Model)]

    def set_roi(self, roi: npt.NDArray[np.bool_]) -> None:
        """Let only the pixels count where `roi` (H, W) is true, for every member."""
        super().set_roi(roi)
        for member in self.parts:
            member.set_roi(roi)


class Ensemble(CompositeModel):
    """The weighted mean of its members' standardised scores, and of their scaled maps.

    Raw scores are standardised by what normal images reach that no member was trained on (p-values would
    saturate and lose the order of what is far out). The sum is made positive in a way that keeps its order.
    In the map, 1 is what the largest value of a normal image's map
    reaches in the mean.
    """

    settings: EnsembleSettings
    centre: Tensor  # (M,) mean of each member's scores on normal images
    spread: Tensor  # (M,) their standard deviation
    peak: Tensor  # (M,) mean of the maps' largest values on normal images; 1 without maps

    def __init__(self, settings: EnsembleSettings, spec: InputSpec) -> None:
        super().__init__([member.model for member in settings.members], spec)
        self.settings = settings
        for name, value in (("centre", 0.0), ("spread", 1.0), ("peak", 1.0)):
            self.register_buffer(name, torch.full((len(settings.members),), value))

    def standardise(self, images: Tensor) -> None:
        """Learn the scale of each member's scores and maps from normal pixels (N, H, W, C) that none has seen."""
        scores, peaks = [], []
        for batch in self.batches(images):
            found = [member(batch) for member in self.parts]
            scores.append(torch.stack([scored.anomaly_score for scored in found], dim=1))
            ones = batch.new_ones(len(batch))
            peaks.append(
                torch.stack([ones if (m := scored.anomaly_map) is None else m.amax(dim=(1, 2)) for scored in found], 1)
            )
        known = torch.cat(scores)
        spread = known.std(dim=0, correction=0)
        self.centre.copy_(known.mean(dim=0))
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        peak = torch.cat(peaks).mean(dim=0)
        self.peak.copy_(torch.where(peak > 0, peak, torch.ones_like(peak)))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) with every member."""
        found: list[ModelOutput] = [member(batch) for member in self.parts]
        weights = [member.weight for member in self.settings.members]
        standard = [(scored.anomaly_score - self.centre[i]) / self.spread[i] for i, scored in enumerate(found)]
        maps = [(i, scored.anomaly_map) for i, scored in enumerate(found) if scored.anomaly_map is not None]
        anomaly_map = mean([values / self.peak[i] for i, values in maps], [weights[i] for i, _ in maps])
        rebuilt = [scored.reconstruction for scored in found if scored.reconstruction is not None]
        total = mean(standard, weights)
        assert total is not None  # noqa: S101 - there is at least one member
        return ModelOutput(positive(total), anomaly_map, rebuilt[0] if rebuilt else None)


def mean(values: list[Tensor], weights: list[float]) -> Tensor | None:
    """The weighted mean of equal tensors; None of none."""
    if not values:
        return None
    total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)
    return total / sum(weights)
