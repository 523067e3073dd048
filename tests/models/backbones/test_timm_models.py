"""Networks of timm, whose place a small module takes here: they become graphs once, and errors say what to do."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from own_backbones import ConvNet
from torch import Tensor, nn

from oddlens.errors import ArtifactError, SettingsError
from oddlens.models.backbones import onnx_graph, timm_models
from oddlens.models.backbones.timm_models import convert_timm


class TimmNet(nn.Module):
    """A network as timm makes them, with its configuration."""

    def __init__(self, network: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.pretrained_cfg = network, config

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network(images))


class Squares(ConvNet):
    """A network for images of 32 x 32 pixels alone."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.shape[2] != 32 or images.shape[3] != 32:
            raise ValueError("takes 32 x 32 pixels")
        return super().forward(images)


def install(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module] = ConvNet, **config: Any) -> None:
    def create_model(name: str, *, pretrained: bool, features_only: bool) -> nn.Module:
        assert features_only
        if pretrained and not config:
            raise OSError("no connection to the hub\nand more lines")
        return TimmNet(network(), {"input_size": (3, 32, 32), **config})

    fake = SimpleNamespace(create_model=create_model, is_model=lambda name: name == "net", __version__="1.2.3")
    monkeypatch.setitem(sys.modules, "timm", fake)


def test_a_network_becomes_a_graph_for_images_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, mean=(0.5, 0.5, 0.5), hf_hub_id="timm/net", license="mit")
    file = convert_timm("timm:net")
    assert file.graph.name == "timm:net"
    assert file.graph.fixed == (None, None)
    assert (file.source, file.licence) == ("pretrained weights of net in timm 1.2.3, timm/net", "mit")
    assert (file.mean, file.std) == ((0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
    maps = file.graph.run(np.zeros((1, 3, 40, 64), np.float32), file.graph.outputs, threads=1)
    assert [values.shape for values in maps] == [(1, 8, 20, 32), (1, 16, 10, 16), (1, 24, 5, 8)]


def test_random_weights_must_be_requested_and_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(SettingsError, match=r"no connection to the hub.*; without network, .*timm:net\?pretrained=fal"):
        convert_timm("timm:net")
    file, again = convert_timm("timm:net?pretrained=false"), convert_timm("timm:net?pretrained=false")
    assert file.source == "random weights of net in timm 1.2.3"
    assert file.graph.sha256 == again.graph.sha256
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    convert_timm("timm:net?pretrained=false")
    assert torch.equal(torch.rand(1), expected)


def test_a_network_for_one_size_is_converted_for_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Squares)
    assert convert_timm("timm:net?pretrained=false").graph.fixed == (32, 32)


class Unexportable(ConvNet):
    """A network that PyTorch's exporter cannot follow."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if torch.compiler.is_exporting():
            raise RuntimeError("data-dependent")
        return super().forward(images)


def test_what_cannot_be_converted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Unexportable)
    with pytest.raises(ArtifactError, match=r"timm:net\?pretrained=false: cannot be converted to ONNX"):
        convert_timm("timm:net?pretrained=false")


class Unrunnable(ConvNet):
    """A network that fails on its own example."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise ValueError("no such size")


def test_what_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Unrunnable)
    with pytest.raises(ArtifactError, match=r"cannot be converted to ONNX \(no such size\)"):
        convert_timm("timm:net?pretrained=false")


def test_what_is_too_large_to_write_or_for_a_detector_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(onnx_graph, "MAX_GRAPH", 100)
    with pytest.raises(ArtifactError, match=r"timm:net\?pretrained=false: has .* bytes, more than the 100"):
        convert_timm("timm:net?pretrained=false")

    def fail() -> bytes:
        raise ValueError("exceeds 2 GiB")

    monkeypatch.setattr(timm_models, "export_module", lambda *_: SimpleNamespace(SerializeToString=fail))
    with pytest.raises(ArtifactError, match=r"cannot be converted to ONNX \(exceeds 2 GiB\)"):
        convert_timm("timm:net?pretrained=false")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:other", r"timm 1\.2\.3 has no such network; timm\.list_models"),
        ("timm:net?pretrained=maybe", r"only \?pretrained=false is allowed"),
    ],
)
def test_a_name_that_is_none_is_refused(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(SettingsError, match=message):
        convert_timm(name)


def test_without_timm_an_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingsError, match=r"needs the package timm, which cannot be imported .*; install it, or exp"):
        convert_timm("timm:net")
