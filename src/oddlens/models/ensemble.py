"""The ensemble family: the weighted mean of the standardized scores of several detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import EnsembleSettings, FamilySettings
from oddlens.config.manifest import Notice
from oddlens.errors import SettingsError
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.base import Model, ModelOutput
from oddlens.models.layers import squareplus
from oddlens.models.registry import build_module, register_family


class CompositeModel(Model):
    """Base class of the families that combine several detectors."""

    def __init__(self, settings: Sequence[FamilySettings], spec: InputSpec) -> None:
        super().__init__(spec)
        self.members = nn.ModuleList(build_module(member, spec) for member in settings)
        for i, member in enumerate(self.parts):
            self.banks |= {f"members.{i}.{name}": max_rows for name, max_rows in member.banks.items()}

    @classmethod
    def check_training(cls, family: str, changes: Mapping[str, object]) -> None:
        """Refuse everything but the seed.

        Raises:
            SettingsError: names the settings.
        """
        others = sorted(changes.keys() - {"seed"})
        if others:
            raise SettingsError(
                f"{', '.join(others)} cannot be set for auto and ensembles, whose members train each in its own way; "
                "set the budget, or choose a single detector"
            )

    @property
    def parts(self) -> list[Model]:
        """The members."""
        return [member for member in self.members if isinstance(member, Model)]

    def notices(self) -> tuple[Notice, ...]:
        """Those of all members, each once."""
        return tuple(dict.fromkeys(notice for member in self.parts for notice in member.notices()))

    def set_roi(self, roi: npt.NDArray[np.bool_]) -> None:
        """Set the region of interest (H, W) of all members; only the pixels where it is true count."""
        super().set_roi(roi)
        for member in self.parts:
            member.set_roi(roi)

    def set_graph(self, graph: OnnxGraph) -> None:
        """Set the graph of the user's own backbone, which all members that have one share."""
        super().set_graph(graph)
        for member in self.parts:
            member.set_graph(graph)


@register_family(settings=EnsembleSettings)
class Ensemble(CompositeModel):
    """Weighted mean of the standardized scores of its members, and of their scaled maps; some have a map alone.

    Raw scores are standardized by those of normal images that no member was trained on; p-values would saturate, and
    lose the order of the most anomalous images. An increasing function makes the mean positive. In the map, 1 is the
    average maximum of the maps of normal images.
    """

    settings: EnsembleSettings
    centre: Tensor  # (M,) mean of each member's scores on normal images
    spread: Tensor  # (M,) their standard deviation
    peak: Tensor  # (M,) mean of the maps' maxima on normal images; 1 without maps

    def __init__(self, settings: EnsembleSettings, spec: InputSpec) -> None:
        super().__init__([member.model for member in settings.members], spec)
        self.settings = settings
        for name, value in (("centre", 0.0), ("spread", 1.0), ("peak", 1.0)):
            self.register_buffer(name, torch.full((len(settings.members),), value))

    def fit_standardization(self, images: Tensor) -> None:
        """Estimate the scale of the members' scores and maps on held-out normal pixels (N, H, W, C)."""
        scores, peaks = [], []
        for batch in self.batches(images):
            outputs: list[ModelOutput] = [member(batch) for member in self.parts]
            ones = batch.new_ones(len(batch))
            maxima = [ones if (m := output.anomaly_map) is None else m.amax(dim=(1, 2)) for output in outputs]
            scores.append(torch.stack([output.anomaly_score for output in outputs], dim=1))
            peaks.append(torch.stack(maxima, dim=1))
        all_scores = torch.cat(scores)
        spread = all_scores.std(dim=0, correction=0)
        self.centre.copy_(all_scores.mean(dim=0))
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        peak = torch.cat(peaks).mean(dim=0)
        self.peak.copy_(torch.where(peak > 0, peak, torch.ones_like(peak)))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) with every member."""
        outputs: list[ModelOutput] = [member(batch) for member in self.parts]
        weights = [member.weight for member in self.settings.members]
        scored = [i for i, member in enumerate(self.settings.members) if not member.map_only]
        scores = [(outputs[i].anomaly_score - self.centre[i]) / self.spread[i] for i in scored]
        maps = [(i, output.anomaly_map) for i, output in enumerate(outputs) if output.anomaly_map is not None]
        scaled_maps = [values / self.peak[i] for i, values in maps]
        anomaly_map = weighted_mean(scaled_maps, [weights[i] for i, _ in maps]) if maps else None
        reconstructions = [output.reconstruction for output in outputs if output.reconstruction is not None]
        score = squareplus(weighted_mean(scores, [weights[i] for i in scored]))
        return ModelOutput(score, anomaly_map, reconstructions[0] if reconstructions else None)


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean of one or more tensors of the same shape."""
    total = torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)
    return total / sum(weights)
