"""The closed table of families. A detector file can name only what stands here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oddlens.config.base import InputSpec
from oddlens.config.detectors import ModelSettings
from oddlens.models.base import Model
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import MEMBERS, Ensemble

FAMILIES: dict[str, Callable[[Any, InputSpec], Model]] = {
    **MEMBERS,
    "ensemble": Ensemble,
    "crossfit": CrossConformal,
}


def build(settings: ModelSettings, spec: InputSpec, seed: int) -> Model:
    """Make an untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[settings.family](settings, spec)


def tensor_shapes(settings: ModelSettings, spec: InputSpec) -> dict[str, tuple[int | range, ...]]:
    """Names and shapes of the tensors that a model of these settings has, without allocating them.

    The first number of a bank's shape depends on the training images: a range says how many rows there may be.
    """
    with torch.device("meta"):
        model = FAMILIES[settings.family](settings, spec)
    shapes: dict[str, tuple[int | range, ...]] = {}
    for name, tensor in model.state_dict().items():
        most = model.banks.get(name)
        shapes[name] = tuple(tensor.shape) if most is None else (range(1, most + 1), *tensor.shape[1:])
    return shapes
