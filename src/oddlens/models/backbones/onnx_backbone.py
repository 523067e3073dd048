"""The user's own backbone as a module: a graph in ONNX format that ONNX Runtime runs inside a PyTorch model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from oddlens.config.backbones import BackboneOutput, OnnxBackbone
from oddlens.config.manifest import Notice
from oddlens.errors import ArtifactError, SettingsError, StateError
from oddlens.models.backbones.base import Backbone
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.backbones.reference_images import reference_images

PLACEHOLDER = "oddlens::Backbone"  # the operator that stands for the graph while the model around it is exported
N_REFERENCE_IMAGES = 8
MIN_DEVIATION = 1e-12  # of a channel that varies
MIN_DEVIATION_RATIO = 0.01  # by which channels are divided at least, relative to the median of those that vary
MAX_COVARIANCE_NUMBERS = 2**22  # of the places of a depth, up to so many, by which its channels are limited
MAX_PLACES = 1024


class OnnxModule(Backbone):
    """The graph with the normalization before it, and the scaling and projection of channels after it.

    Channels are divided by their standard deviation on reference images. Where their covariances at all places would
    take too much memory, they are projected onto fewer random directions (Kim et al., "Semi-orthogonal embedding for
    efficient unsupervised anomaly segmentation", 2021). Neither depends on training images.
    """

    def __init__(self, settings: OnnxBackbone, depths: Sequence[int]) -> None:
        super().__init__()
        if max(depths) >= len(settings.outputs):
            raise SettingsError(
                f"{settings.name}: has the depths 0 to {len(settings.outputs) - 1}, and depth {max(depths)} is set; "
                "leave depths out"
            )
        self.settings = settings
        self.size = (settings.height, settings.width)
        self.depths = tuple(depths)
        self.graph: OnnxGraph | None = None  # which the detector file has apart from the weights
        self.outputs = [settings.outputs[depth] for depth in self.depths]
        for name, values in (("mean", settings.mean), ("std", settings.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        for depth, output in zip(self.depths, self.outputs, strict=True):
            self.register_buffer(f"scale_{depth}", torch.ones(output.channels))
            if (dims := projected_dims(output)) < output.channels:
                self.register_buffer(f"projection_{depth}", torch.zeros(dims, output.channels))

    def shape(self, depth: int, height: int, width: int) -> tuple[int, int, int]:
        """Channels after the projection, rows and columns of an output; the size of images is the graph's."""
        output = self.settings.outputs[depth]
        return projected_dims(output), output.rows, output.columns

    def deviations(self) -> list[Tensor]:
        """About 1 for each channel, which scale and projection see to."""
        return [self.get_buffer("mean").new_ones(projected_dims(output)) for output in self.outputs]

    def notice(self) -> Notice:
        """What is known about the graph."""
        own = self.settings
        text = f"oddlens does not know the terms under which {own.name} may be passed on."
        return Notice(name=own.name, source=own.source, sha256=own.sha256, licence=own.licence, text=text)

    def load_pretrained(self, seed: int = 0) -> None:
        """Compute the scales of channels on reference images, and draw the projections by `seed`.

        Raises:
            ArtifactError: the graph does not run, or an output does not vary.
        """
        generator = torch.Generator().manual_seed(seed)
        for depth, output, deviation in zip(self.depths, self.outputs, self.reference_deviations(), strict=True):
            varying = deviation[deviation > MIN_DEVIATION]
            if len(varying) == 0:
                raise ArtifactError(
                    f"{self.settings.name}: its output '{output.name[:80]}' is the same at all places of all images; "
                    "choose other depths, or another network"
                )
            least = MIN_DEVIATION_RATIO * float(varying.median())
            self.get_buffer(f"scale_{depth}").copy_(1 / deviation.clamp_min(least))
            if (dims := projected_dims(output)) < output.channels:
                random = torch.randn(output.channels, dims, generator=generator, dtype=torch.float64)
                directions = torch.linalg.qr(random).Q.T * math.sqrt(output.channels / dims)
                self.get_buffer(f"projection_{depth}").copy_(directions)

    def reference_deviations(self) -> list[Tensor]:
        """Standard deviation (C,) of each channel at each depth, over all places of the reference images."""
        images = torch.from_numpy(reference_images(N_REFERENCE_IMAGES, self.settings.height, self.settings.width))
        device = self.get_buffer("mean").device
        origins, sums, squares = list[Tensor](), list[Tensor](), list[Tensor]()
        for image in images:
            for i, features in enumerate(self.run_graph(image[None].to(device))):
                values = features[0].double().flatten(1)
                if i == len(origins):  # sums are relative to a value of each channel, so that they lose no digits
                    origins.append(values[:, :1])
                    sums.append(torch.zeros_like(values[:, 0]))
                    squares.append(torch.zeros_like(values[:, 0]))
                values = values - origins[i]
                sums[i] += values.sum(dim=1)
                squares[i] += values.square().sum(dim=1)
        counts = [len(images) * output.rows * output.columns for output in self.outputs]
        return [
            (square / count - (total / count) ** 2).clamp_min(0).sqrt()
            for total, square, count in zip(sums, squares, counts, strict=True)
        ]

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Features (N, D, rows, columns) at each depth, of images (N, 1 or 3, H, W) of the graph's size, in 0..1."""
        results = []
        for depth, output, features in zip(self.depths, self.outputs, self.run_graph(batch), strict=True):
            values = features * self.get_buffer(f"scale_{depth}")[:, None, None]
            if projected_dims(output) < output.channels:
                projected = self.get_buffer(f"projection_{depth}") @ values.flatten(2)
                values = projected.reshape(-1, projected_dims(output), output.rows, output.columns)
            results.append(values)
        return results

    def run_graph(self, batch: Tensor) -> list[Tensor]:
        """The outputs as maps (N, C, rows, columns) of images (N, 1 or 3, H, W) in 0..1.

        Raises:
            ArtifactError: the graph does not run, or gives something other than it did.
        """
        colour = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
        images = (colour.float() - self.get_buffer("mean")) / self.get_buffer("std")
        names = [output.name for output in self.outputs]
        if torch.compiler.is_exporting():
            shapes = [(images.shape[0], *output.shape) for output in self.outputs]
            types = [torch.float32] * len(shapes)
            tensors: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
                PLACEHOLDER, (images,), {"names": names}, dtypes=types, shapes=shapes, version=1
            )
        elif self.graph is None:
            raise StateError(f"the graph of {self.settings.name} is not set; fit the detector, or load it from a file")
        else:
            pixels = np.ascontiguousarray(images.detach().cpu().numpy())
            arrays = self.graph.run(pixels, names, torch.get_num_threads())
            for array, output in zip(arrays, self.outputs, strict=True):
                if array.shape[1:] != output.shape:
                    raise ArtifactError(
                        f"{self.settings.name}: its output '{output.name}' has the shape {array.shape[1:]} for an "
                        f"image, and had {output.shape} when it was fitted; fit again"
                    )
            tensors = [torch.from_numpy(array).to(batch.device) for array in arrays]
        return [as_map(tensor, output) for tensor, output in zip(tensors, self.outputs, strict=True)]


def as_map(values: Tensor, output: BackboneOutput) -> Tensor:
    """An output (N, ...) as a map (N, C, rows, columns)."""
    if output.layout == "channels_last":
        return values.permute(0, 3, 1, 2)
    if output.layout == "tokens":
        values = values[:, output.prefix :].transpose(1, 2)
    return values.reshape(-1, output.channels, output.rows, output.columns)


def projected_dims(output: BackboneOutput) -> int:
    """Number of channels of an output after the projection."""
    places = min(output.rows * output.columns, MAX_PLACES)
    return min(output.channels, math.isqrt(MAX_COVARIANCE_NUMBERS // places))
