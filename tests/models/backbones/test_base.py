"""Both kinds of backbones are one interface."""

from __future__ import annotations

import pytest
import torch

from oddlens.config.backbones import BackboneOutput, OnnxBackbone
from oddlens.errors import SettingsError
from oddlens.models.backbones.base import Backbone
from oddlens.models.backbones.efficientnet_lite import EfficientNetLite0
from oddlens.models.backbones.onnx_backbone import OnnxModule


def test_both_kinds_of_backbones_are_one() -> None:
    assert issubclass(EfficientNetLite0, Backbone)
    assert issubclass(OnnxModule, Backbone)
    assert EfficientNetLite0((0,)).size is None  # of images, which may have any


def test_a_backbone_without_a_classifier_says_so() -> None:
    own = OnnxBackbone(
        name="own.onnx", source="", licence="", sha256="0" * 64, height=8, width=8, mean=(0, 0, 0), std=(1, 1, 1),
        outputs=(BackboneOutput(name="y", layout="pooled", channels=4),),
    )  # fmt: skip
    module = OnnxModule(own, (0,))
    assert module.n_classes == 0
    with pytest.raises(SettingsError, match=r"own\.onnx: has no classifier"):
        module.classify(torch.zeros(1, 4))
