"""The registry of families: which model belongs to which settings, and how it is trained by default.

A detector file names its family; only families in `config.detectors.FAMILIES` can follow from that name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import FamilySettings
from oddlens.models.base import Model

M = TypeVar("M", bound=type[Model])


class Family(NamedTuple):
    """A family of detectors as the registry knows it."""

    model: type[Model]
    default_training: TrainingSettings


_REGISTRY: dict[type[FamilySettings], Family] = {}


def register_family(
    *, settings: type[FamilySettings], default_training: TrainingSettings | None = None
) -> Callable[[M], M]:
    """Class decorator: register a model as the one that belongs to `settings`.

    `default_training` is how it trains unless the user says otherwise; families without gradient training need none.
    The model is made by `model(settings, spec)`.

    Raises:
        TypeError: another model is registered for these settings.
    """
    if settings in _REGISTRY:
        raise TypeError(f"{settings.__qualname__} is registered for {_REGISTRY[settings].model.__qualname__} already")

    def register(model: M) -> M:
        _REGISTRY[settings] = Family(model, default_training or TrainingSettings())
        return model

    return register


def family_of(settings: FamilySettings) -> Family:
    """The registered family of these settings."""
    return registered_family(type(settings))


def registered_family(settings_class: type[FamilySettings]) -> Family:
    """The family that is registered for a class of settings; its module is imported on first use.

    Raises:
        TypeError: there is none.
    """
    if settings_class not in _REGISTRY and settings_class.implementation:
        with torch.device("cpu"):  # real tensors, even where a model is built on the meta device
            importlib.import_module(settings_class.implementation)
    if settings_class not in _REGISTRY:
        raise TypeError(f"no model is registered for {settings_class.__qualname__}; use @register_family on one")
    return _REGISTRY[settings_class]


def build_module(settings: FamilySettings, spec: InputSpec) -> Model:
    """An untrained model whose weights are drawn from PyTorch's global generator, as parts of other models are."""
    return cast(Callable[[FamilySettings, InputSpec], Model], family_of(settings).model)(settings, spec)


def build(settings: FamilySettings, spec: InputSpec, seed: int) -> Model:
    """An untrained model; the same seed gives the same weights, and the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_module(settings, spec)


def tensor_shapes(settings: FamilySettings, spec: InputSpec) -> dict[str, tuple[int | range, ...]]:
    """Names and shapes of the tensors of a model with these settings, without allocating them.

    The number of rows of a bank depends on the training images: a range gives those that are allowed.
    """
    with torch.device("meta"):
        model = build_module(settings, spec)
    shapes: dict[str, tuple[int | range, ...]] = {}
    for name, tensor in model.state_dict().items():
        max_rows = model.banks.get(name)
        shapes[name] = tuple(tensor.shape) if max_rows is None else (range(1, max_rows + 1), *tensor.shape[1:])
    return shapes
