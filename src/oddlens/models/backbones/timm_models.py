"""Networks of the package timm as backbones: converted to ONNX once, when a detector is fitted."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from oddlens.config.backbones import TIMM_PREFIX, Colour
from oddlens.errors import ArtifactError, OddlensError, SettingsError
from oddlens.io.text import first_line
from oddlens.models.backbones.onnx_exporter import export_module
from oddlens.models.backbones.onnx_graph import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    REMEDY,
    UNKNOWN_LICENCE,
    BackboneFile,
    OnnxGraph,
)

UNTRAINED = "?pretrained=false"  # at the end of a name
DEFAULT_SIDE = 224


class FeatureMaps(nn.Module):
    """A network that gives a tuple of its feature maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The feature maps of images (N, 3, H, W)."""
        return tuple(self.network(images))


def convert_timm(name: str) -> BackboneFile:
    """The network "timm:NAME" as a graph; "timm:NAME?pretrained=false" has random weights.

    Raises:
        SettingsError: timm is not installed, or has no such network, or its weights cannot be had.
        ArtifactError: the network cannot be converted.
    """
    model_name = name.removeprefix(TIMM_PREFIX).removesuffix(UNTRAINED)
    if "?" in model_name:
        raise SettingsError(f"{name}: after the name, only {UNTRAINED} is allowed")
    is_pretrained = not name.endswith(UNTRAINED)
    try:
        timm = importlib.import_module("timm")
    except Exception as error:  # torchvision, which timm imports, raises others where it does not go with PyTorch
        raise SettingsError(
            f"{name}: needs the package timm, which cannot be imported ({first_line(error)}); install it, or export "
            "the network to an .onnx file elsewhere"
        ) from error
    network = create_network(timm, model_name, is_pretrained).eval()
    config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    graph = OnnxGraph(convert_network(network, config, name), name)
    kind = "pretrained weights" if is_pretrained else "random weights"
    origin = config.get("hf_hub_id") or config.get("url") or "" if is_pretrained else ""
    source = f"{kind} of {model_name} in timm {timm.__version__}{f', {origin}' if origin else ''}"
    licence = config.get("license") if is_pretrained else "none needed: random weights"
    return BackboneFile(
        graph,
        source,
        str(licence or UNKNOWN_LICENCE),
        colour(config.get("mean"), IMAGENET_MEAN),
        colour(config.get("std"), IMAGENET_STD),
    )


def colour(values: Any, usual: Colour) -> Colour:
    """Three numbers of a configuration, or the usual ones where it has none."""
    return (float(values[0]), float(values[1]), float(values[2])) if values else usual


def create_network(timm: Any, model_name: str, is_pretrained: bool) -> nn.Module:
    """A network of timm that gives its feature maps; random weights follow from a fixed seed.

    Raises:
        SettingsError: there is no such network, or its weights cannot be had.
    """
    if ":" not in model_name and not timm.is_model(model_name.partition(".")[0]):
        raise SettingsError(
            f"timm:{model_name}: timm {timm.__version__} has no such network; timm.list_models() lists them"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network: nn.Module = timm.create_model(model_name, pretrained=is_pretrained, features_only=True)
    except Exception as error:  # timm and the hub that it downloads from raise many kinds
        advice = (
            f"without network, put the weights into the cache of Hugging Face (HF_HOME) first, or give an .onnx file; "
            f"timm:{model_name}{UNTRAINED} has random weights"
            if is_pretrained
            else "export it to an .onnx file instead"
        )
        kind = "with pretrained weights and feature maps" if is_pretrained else "with feature maps"
        raise SettingsError(
            f"timm:{model_name}: timm does not give it {kind} ({first_line(error)}); {advice}"
        ) from error
    return network


def convert_network(network: nn.Module, config: dict[str, Any], name: str) -> bytes:
    """The graph of a network, for images of any size if it takes them.

    Raises:
        ArtifactError: it cannot be converted.
    """
    height, width = (config.get("input_size") or (3, DEFAULT_SIDE, DEFAULT_SIDE))[1:]
    module, example = FeatureMaps(network), torch.zeros(2, 3, height, width)
    batch = {0: torch.export.Dim("batch")}
    any_size = batch | {2: torch.export.Dim("height", min=32), 3: torch.export.Dim("width", min=32)}
    for shapes in (any_size, batch):
        try:
            with torch.inference_mode():
                names = [f"map{number}" for number in range(len(module(example)))]
            return bytes(export_module(module, example, "images", names, shapes).SerializeToString())
        except OddlensError:
            raise
        except Exception as error:  # networks, torch's exporter and protobuf (above 2 GiB) raise many kinds
            failure = error
    raise ArtifactError(f"{name}: cannot be converted to ONNX ({first_line(failure)}); {REMEDY}") from failure
