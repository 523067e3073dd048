"""Unsupervised anomaly detection in images: learn normal, score new images, keep a false-alarm rate."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddlens.config.backbones import BackboneOutput as BackboneOutput
    from oddlens.config.backbones import OnnxBackbone as OnnxBackbone
    from oddlens.config.base import DecisionSettings as DecisionSettings
    from oddlens.config.base import InputSpec as InputSpec
    from oddlens.config.base import RuntimeSettings as RuntimeSettings
    from oddlens.config.base import Tiling as Tiling
    from oddlens.config.base import TrainingSettings as TrainingSettings
    from oddlens.config.detectors import AutoSettings as AutoSettings
    from oddlens.config.detectors import CrossfitSettings as CrossfitSettings
    from oddlens.config.detectors import EnsembleSettings as EnsembleSettings
    from oddlens.config.detectors import Member as Member
    from oddlens.config.from_scratch import AutoencoderSettings as AutoencoderSettings
    from oddlens.config.from_scratch import DefectsSettings as DefectsSettings
    from oddlens.config.from_scratch import DictionarySettings as DictionarySettings
    from oddlens.config.from_scratch import RotationSettings as RotationSettings
    from oddlens.config.manifest import Manifest as Manifest
    from oddlens.config.with_backbone import FeaturesSettings as FeaturesSettings
    from oddlens.config.with_backbone import PadimSettings as PadimSettings
    from oddlens.config.with_backbone import PatchcoreSettings as PatchcoreSettings
    from oddlens.conformal.decision import Decision as Decision
    from oddlens.conformal.lot import LotTest as LotTest
    from oddlens.data.image_set import DataSet as DataSet
    from oddlens.data.image_set import ImageSet as ImageSet
    from oddlens.data.open import open_dataset as open_dataset
    from oddlens.detector.detector import Detector as Detector
    from oddlens.detector.verdicts import Verdicts as Verdicts
    from oddlens.errors import ArtifactError as ArtifactError
    from oddlens.errors import CalibrationError as CalibrationError
    from oddlens.errors import DataError as DataError
    from oddlens.errors import DataNotFoundError as DataNotFoundError
    from oddlens.errors import DiskFullError as DiskFullError
    from oddlens.errors import ImageError as ImageError
    from oddlens.errors import MissingExtraError as MissingExtraError
    from oddlens.errors import OddlensError as OddlensError
    from oddlens.errors import PluginError as PluginError
    from oddlens.errors import SettingsError as SettingsError
    from oddlens.errors import StateError as StateError
    from oddlens.errors import StoreError as StoreError
    from oddlens.errors import TrainingError as TrainingError
    from oddlens.errors import UnreadableImageError as UnreadableImageError
    from oddlens.evaluation.evaluate import Evaluation as Evaluation
    from oddlens.evaluation.evaluate import evaluate as evaluate
    from oddlens.inference.backend import Predictions as Predictions

_PUBLIC = {  # module -> the names that it gives to the public; imported on first use
    "config.base": ("DecisionSettings", "InputSpec", "RuntimeSettings", "Tiling", "TrainingSettings"),
    "config.backbones": ("BackboneOutput", "OnnxBackbone"),
    "config.detectors": (
        "AutoSettings",
        "CrossfitSettings",
        "EnsembleSettings",
        "Member",
    ),
    "config.from_scratch": ("AutoencoderSettings", "DefectsSettings", "DictionarySettings", "RotationSettings"),
    "config.with_backbone": ("FeaturesSettings", "PadimSettings", "PatchcoreSettings"),
    "config.manifest": ("Manifest",),
    "conformal.decision": ("Decision",),
    "conformal.lot": ("LotTest",),
    "data.image_set": ("DataSet", "ImageSet"),
    "data.open": ("open_dataset",),
    "detector.detector": ("Detector",),
    "detector.verdicts": ("Verdicts",),
    "errors": (
        "ArtifactError",
        "CalibrationError",
        "DataError",
        "DataNotFoundError",
        "DiskFullError",
        "ImageError",
        "MissingExtraError",
        "OddlensError",
        "PluginError",
        "SettingsError",
        "StateError",
        "StoreError",
        "TrainingError",
        "UnreadableImageError",
    ),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "inference.backend": ("Predictions",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted([*_MODULES, "__version__"])
__version__ = "0.1.0"
PROCESS = os.getpid()  # that imported oddlens; another one was forked from it


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import oddlens` costs next to nothing."""
    if name not in _MODULES:
        raise AttributeError(f"module 'oddlens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oddlens.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
