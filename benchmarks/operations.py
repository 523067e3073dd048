"""Number of operations of the autoencoders' layers, counted from their settings.

A multiply-add is two operations. Everything else (activations, pooling, the loss, the optimizer) is limited by memory
and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings


class Layer(NamedTuple):
    """A convolution, transposed convolution or linear layer; height and width are those of its input."""

    kind: Literal["convolution", "transposed", "linear"]
    before: int  # input channels
    after: int  # output channels
    height: int = 1
    width: int = 1
    kernel: int = 1
    stride: int = 1

    def __str__(self) -> str:
        place = f" of {self.height} x {self.width}" if self.kind != "linear" else ""
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kind} {self.before} to {self.after}{place}{stride}"

    @property
    def product(self) -> tuple[int, int, int]:
        """Return the equivalent matrix product for one image: (rows, inner) times (inner, columns)."""
        taps = self.kernel**2
        if self.kind == "transposed":  # each pixel spreads over a patch
            return self.height * self.width, self.before, self.after * taps
        rows = -(-self.height // self.stride) * -(-self.width // self.stride)
        return rows, self.before * taps, self.after

    @property
    def operations(self) -> int:
        """Return the operations of the forward pass of one image."""
        rows, inner, columns = self.product
        return 2 * rows * inner * columns


def layers(settings: AutoencoderSettings, spec: InputSpec) -> list[Layer]:
    """Return the layers, from the image to its reconstruction."""
    multiple = 2 ** len(settings.widths)
    height, width = (-(-side // multiple) * multiple for side in (spec.height, spec.width))  # padded size
    widths = (spec.channels, *settings.widths)
    if settings.architecture == "pooling":
        return pooling_layers(widths, height, width)
    return strided_layers(widths, settings.latent_dim, height, width)


def pooling_layers(widths: Sequence[int], height: int, width: int) -> list[Layer]:
    """MNIST recipe: the size halves after each encoder convolution and doubles before each decoder convolution."""
    result = []
    for level, (before, after) in enumerate(pairwise(widths)):
        result.append(Layer("convolution", before, after, height >> level, width >> level, 3))
    bottom = len(widths) - 1
    result.append(Layer("convolution", widths[-1], widths[-1], height >> bottom, width >> bottom, 3))
    for level, (before, after) in enumerate(pairwise(reversed(widths)), 1):
        result.append(Layer("convolution", before, after, height >> bottom - level, width >> bottom - level, 3))
    return result


def strided_layers(widths: Sequence[int], latent: int, height: int, width: int) -> list[Layer]:
    """CIFAR-10 recipe: strided convolutions, two linear layers, transposed convolutions."""
    down = [
        Layer("convolution", before, after, height >> level, width >> level, 3, 2)
        for level, (before, after) in enumerate(pairwise(widths))
    ]
    bottom = len(widths) - 1
    features = widths[-1] * (height >> bottom) * (width >> bottom)
    up = [
        Layer("transposed", before, after, height >> bottom - level, width >> bottom - level, 4, 2)
        for level, (before, after) in enumerate(pairwise(reversed(widths)))
    ]
    return [*down, Layer("linear", features, latent), Layer("linear", latent, features), *up]


def scoring(network: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Return each layer with the operations of scoring one image."""
    return [(layer, layer.operations) for layer in network]


def training(network: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Return each layer with the operations of training on one image: forward, and gradients of weights and inputs.

    The first layer needs no gradient of its input.
    """
    return [(layer, (2 if index == 0 else 3) * layer.operations) for index, layer in enumerate(network)]


def total(counted: Sequence[tuple[Layer, int]]) -> int:
    """Return the operations of all layers."""
    return sum(operations for _, operations in counted)
