"""Small networks with random weights as .onnx files, as users export theirs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.backbones.onnx_exporter import silence_exporter

BATCH = {0: torch.export.Dim("batch")}
ANY_SIZE = {**BATCH, 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}


class ConvNet(nn.Module):
    """Three maps, each at half the resolution of the one before, and the mean of the last."""

    def __init__(self, channels: int = 8, *, pooled: bool = False) -> None:
        super().__init__()
        sides = [3, channels, 2 * channels, 3 * channels]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(sides))
        self.pooled = pooled

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, values = [], images
        for conv in self.convs:
            values = F.relu(conv(values))
            maps.append(values)
        return (*maps, values.mean(dim=(2, 3))) if self.pooled else tuple(maps)


class TokenNet(nn.Module):
    """A class token and the tokens of patches, mixed by attention."""

    def __init__(self, side: int, channels: int = 12, prefix: int = 1) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, channels, side, side)
        self.prefix = nn.Parameter(torch.randn(1, prefix, channels))
        self.query = nn.Linear(channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(images.shape[0], -1, -1), patches], dim=1)
        weights = (self.query(tokens) @ tokens.transpose(1, 2)).softmax(dim=2)
        mixed: Tensor = weights @ tokens
        return tokens + mixed


def write_onnx(
    path: Path,
    network: nn.Module,
    shape: tuple[int, ...] = (2, 3, 32, 32),
    dynamic: dict[int, Any] | None = ANY_SIZE,
    opset: int = 18,
    *,
    dynamo: bool = False,
) -> Path:
    """Export a network; without `dynamic`, for this shape alone.

    PyTorch's older exporter does it in a fiftieth of the time of the newer one (`dynamo`).
    """
    example = torch.zeros(shape)
    result = network.eval()(example)
    names = ["features"] if isinstance(result, Tensor) else [f"map{i}" for i in range(len(result))]
    axes = {axis: dim.__name__ for axis, dim in (dynamic or {}).items()}
    how: dict[str, Any] = {"dynamic_axes": dict.fromkeys(["images", *names], axes)}
    if dynamo:
        how = {"dynamic_shapes": None if dynamic is None else (dynamic,), "external_data": False}
    with silence_exporter():
        torch.onnx.export(
            network, (example,), path, dynamo=dynamo, input_names=["images"], output_names=names, opset_version=opset,
            verbose=False, **how,
        )  # fmt: skip
    assert path.is_file()
    return path
