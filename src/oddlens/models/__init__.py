"""The closed table of families. A detector file can name only what stands here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from oddlens.config import InputSpec, ModelSettings
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.base import Model, Scored, ScoringGraph

FAMILIES: dict[str, Callable[[ModelSettings, InputSpec], Model]] = {"autoencoder": Autoencoder}

__all__ = ["FAMILIES", "Model", "Scored", "ScoringGraph", "build", "tensor_shapes"]


def build(settings: ModelSettings, spec: InputSpec, seed: int) -> Model:
    """Make an untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[settings.family](settings, spec)


def tensor_shapes(settings: ModelSettings, spec: InputSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a model of these settings has, without allocating them."""
    with torch.device("meta"):
        model = FAMILIES[settings.family](settings, spec)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
