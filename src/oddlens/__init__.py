"""Unsupervised anomaly detection in images: learn normal, score new images, keep a false-alarm rate."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddlens.config.base import DecisionSettings as DecisionSettings
    from oddlens.config.base import TrainingSettings as TrainingSettings
    from oddlens.config.detectors import AutoencoderSettings as AutoencoderSettings
    from oddlens.data.image_set import DataSet as DataSet
    from oddlens.data.image_set import ImageSet as ImageSet
    from oddlens.data.open import open_dataset as open_dataset
    from oddlens.detector.detector import Detector as Detector
    from oddlens.detector.verdicts import Verdicts as Verdicts
    from oddlens.errors import OddlensError as OddlensError

_PUBLIC = {  # name -> the module that it lives in, imported when first asked for
    "AutoencoderSettings": "config.detectors",
    "DataSet": "data.image_set",
    "DecisionSettings": "config.base",
    "Detector": "detector.detector",
    "ImageSet": "data.image_set",
    "OddlensError": "errors",
    "TrainingSettings": "config.base",
    "Verdicts": "detector.verdicts",
    "open_dataset": "data.open",
}

__all__ = sorted([*_PUBLIC, "__version__"])
__version__ = "0.1.0"
PROCESS = os.getpid()  # that imported oddlens; another one was forked from it


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import oddlens` costs next to nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'oddlens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oddlens.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
