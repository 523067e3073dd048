"""Both kinds of backbones are one interface."""

from __future__ import annotations

from oddlens.models.backbones.base import MAX_PLACES, Backbone
from oddlens.models.backbones.efficientnet_lite import EfficientNetLite0
from oddlens.models.backbones.onnx_backbone import OnnxModule
from oddlens.models.pretrained import grid_stride


def test_both_kinds_of_backbones_are_one() -> None:
    assert issubclass(EfficientNetLite0, Backbone)
    assert issubclass(OnnxModule, Backbone)
    assert EfficientNetLite0((0,)).size is None  # of images, which may have any


def test_grids_are_averaged_above_the_limit_of_places() -> None:
    assert (grid_stride(1, MAX_PLACES), grid_stride(1, MAX_PLACES + 1)) == (1, 2)
