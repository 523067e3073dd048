"""Small stand-ins for timm and torchvision, which the docs use and the tests do without."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

import pytest
from own_backbones import ConvNet, TokenNet
from torch import Tensor, nn


class TimmTransformer(TokenNet):
    """A transformer whose features are tokens and whose output is that of a classifier."""

    def forward_features(self, images: Tensor) -> Tensor:
        return super().forward(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)[:, 0]


class TimmMaps(ConvNet):
    """A network that gives the maps of several depths."""

    pretrained_cfg: ClassVar[dict[str, object]] = {"input_size": (3, 32, 32), "license": "apache-2.0"}

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        return list(super().forward(images))


class ResNet(nn.Module):
    """A classifier with named layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer2, self.layer3 = nn.Conv2d(3, 8, 3, 8, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer3(self.layer2(images)).mean(dim=(2, 3))  # type: ignore[no-any-return]


class Layers(nn.Module):
    """The outputs of layers of a classifier, by their names."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs, values = dict[str, Tensor](), images
        for name, layer in self.network.named_children():
            values = layer(values)
            outputs[name] = values
        return {name: outputs[name] for name in self.names}


def create_model(name: str, *, pretrained: bool, features_only: bool = False, img_size: int = 224) -> nn.Module:
    """A network as timm makes them."""
    assert pretrained
    return TimmMaps() if features_only else TimmTransformer(img_size // 16)


def resnet50(*, weights: str) -> ResNet:
    """A network as torchvision makes them."""
    assert weights == "DEFAULT"
    return ResNet()


def install_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both packages be imported for the time of a test."""
    timm: Any = ModuleType("timm")
    timm.create_model, timm.is_model, timm.__version__ = create_model, bool, "1.0.0"
    torchvision: Any = ModuleType("torchvision")
    torchvision.models = ModuleType("torchvision.models")
    torchvision.models.resnet50 = resnet50
    torchvision.models.feature_extraction = ModuleType("torchvision.models.feature_extraction")
    torchvision.models.feature_extraction.create_feature_extractor = Layers
    for name, module in {
        "timm": timm,
        "torchvision": torchvision,
        "torchvision.models": torchvision.models,
        "torchvision.models.feature_extraction": torchvision.models.feature_extraction,
    }.items():
        module.__spec__ = ModuleSpec(name, None)  # PyTorch's exporter looks for it
        monkeypatch.setitem(sys.modules, name, module)
