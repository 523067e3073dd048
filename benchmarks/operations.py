"""How many operations the autoencoders' layers take: counted from their settings, whatever form computes them.

A multiplication with its addition is two operations. Everything else (activations, pooling, the loss, the optimiser) is
left out: it is memory that limits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings


class Layer(NamedTuple):
    """A convolution, a transposed one, or a linear layer (of one pixel); height and width are its input's."""

    kind: Literal["convolution", "transposed", "linear"]
    before: int  # channels
    after: int
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
        """The matrix product that computes the same of one image: (rows, inner) times (inner, columns)."""
        taps = self.kernel**2
        if self.kind == "transposed":  # each pixel spreads over a patch
            return self.height * self.width, self.before, self.after * taps
        rows = -(-self.height // self.stride) * -(-self.width // self.stride)
        return rows, self.before * taps, self.after

    @property
    def operations(self) -> int:
        """Of one image, forward."""
        rows, inner, columns = self.product
        return 2 * rows * inner * columns


def layers(settings: AutoencoderSettings, spec: InputSpec) -> list[Layer]:
    """The layers, from the picture to its reconstruction."""
    multiple = 2 ** len(settings.widths)
    height, width = (-(-side // multiple) * multiple for side in (spec.height, spec.width))  # as it is padded
    widths = (spec.channels, *settings.widths)
    if settings.architecture == "pooling":
        return pooling_layers(widths, height, width)
    return strided_layers(widths, settings.latent_dim, height, width)


def pooling_layers(widths: Sequence[int], height: int, width: int) -> list[Layer]:
    """The MNIST seed: after each convolution down the picture halves, before each one up it doubles."""
    found = []
    for level, (before, after) in enumerate(pairwise(widths)):
        found.append(Layer("convolution", before, after, height >> level, width >> level, 3))
    bottom = len(widths) - 1
    found.append(Layer("convolution", widths[-1], widths[-1], height >> bottom, width >> bottom, 3))
    for level, (before, after) in enumerate(pairwise(reversed(widths)), 1):
        found.append(Layer("convolution", before, after, height >> bottom - level, width >> bottom - level, 3))
    return found


def strided_layers(widths: Sequence[int], latent: int, height: int, width: int) -> list[Layer]:
    """The CIFAR-10 seed: strided convolutions, two linear layers, transposed convolutions."""
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


def scoring(of: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Each layer with the operations that scoring one image takes."""
    return [(layer, layer.operations) for layer in of]


def training(of: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """The same for training: forward, and backward to weights and to inputs; the picture needs no gradient."""
    return [(layer, (2 if place == 0 else 3) * layer.operations) for place, layer in enumerate(of)]


def total(counted: Sequence[tuple[Layer, int]]) -> int:
    """The operations of all layers."""
    return sum(operations for _, operations in counted)
