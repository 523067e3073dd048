"""Both kinds of backbones are one interface."""

from __future__ import annotations

from oddlens.models.backbones.base import Backbone
from oddlens.models.backbones.efficientnet_lite import EfficientNetLite0
from oddlens.models.backbones.onnx_backbone import OnnxModule


def test_both_kinds_of_backbones_are_one() -> None:
    assert issubclass(EfficientNetLite0, Backbone)
    assert issubclass(OnnxModule, Backbone)
    assert EfficientNetLite0((0,)).size is None  # of images, which may have any
