"""An autoencoder's layers through the kernels in C; parameters, gradients and logits are PyTorch's.

They learn in bfloat16, and score in bfloat16 or float32.

Where the kernels cannot be had, or the layers are not made for them, there is none, and PyTorch's own layers work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from oddlens.kernels import library, plans
from oddlens.kernels.network import LANES, ROWS, Memory, Shape, allocated
from oddlens.models.conv_variants import UPSAMPLED_BOTH, UpsampledConv2d

BYTES = 2**20  # between layers, of the pictures that a thread scores at a time: they stay in its cache
MOST_WEIGHTS = 2**25  # of a dense layer: beyond, nothing counts but how fast memory is
MOST_PLACES = 2**11  # before a dense layer: its table has their square
MOST_PIXELS = 2**20  # of a picture: tables have a few numbers for each, and places are counted in 32 bits

Change = Callable[[Tensor], Tensor]
Transposed = UpsampledConv2d | nn.ConvTranspose2d  # what doubles sides


def same(tensor: Tensor) -> Tensor:
    """No change."""
    return tensor


def channels_last(weight: Tensor) -> Tensor:
    """The same weights, (O, 3, 3, C) in memory."""
    return weight.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Part:
    """A layer: as the kernels see it, and how its parameters and their gradients come and go."""

    module: nn.Conv2d | Transposed | nn.Linear
    shape: Shape
    weights: Change = channels_last
    weights_back: Change = same
    biases: Change = same
    biases_back: Change = same


def first(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> Part:
    """The convolution of pixels: one set, of all that a place sees."""
    count, c = -(-height // module.stride[0]) * -(-width // module.stride[0]), 9 * module.in_channels
    shape = Shape(np.arange(count)[:, None], count, c, module.out_channels, (0, 1, c), relu, pool)
    return Part(module, shape)


def convolution(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> Part:
    """A convolution of hidden numbers."""
    table = plans.strided(height, width, module.stride[0], pooled=pool)
    c, n = module.in_channels, module.out_channels
    return Part(module, Shape(table, height * width, c, n, (c, 1, 9 * c), relu, pool))


def gathering(module: nn.Linear, count: int) -> Part:
    """A dense layer from all places to one; its inputs are channels, then places."""
    c, n = module.in_features // count, module.out_features
    shape = Shape(plans.gathering(count), count, c, n, (n, count * n, 1))
    return Part(module, shape, lambda weight: weight.T.contiguous(), lambda gradient: gradient.T)


def spreading(module: nn.Linear, count: int) -> Part:
    """A dense layer from one place to all; its outputs are channels, then places."""
    c, n = module.in_features, module.out_features // count
    shape = Shape(plans.spreading(count), 1, c, n, (c, 1, count * c), own_biases=True)
    return Part(
        module, shape, Tensor.contiguous, same,
        lambda bias: bias.view(n, count).T.contiguous(), lambda gradient: gradient.T.reshape(-1),
    )  # fmt: skip


def doubling(module: Transposed, height: int, width: int, *, relu: bool) -> Part:
    """A transposed 4x4 convolution that doubles sides; or up-sampling and a 3x3 convolution, which is one."""
    c, n = module.in_channels, module.out_channels
    table, count = plans.doubling(height, width), height * width
    if isinstance(module, UpsampledConv2d):
        return Part(module, Shape(table, count, c, n, (c, 1, 16 * c), relu), merged, divided)
    return Part(module, Shape(table, count, c, n, (n, 16 * n, 1), relu))


def merged(weight: Tensor) -> Tensor:
    """A 3x3 kernel behind up-sampling (O, C, 3, 3) -> (O, 16, C), the transposed convolution's."""
    return UPSAMPLED_BOTH.T @ weight.permute(0, 2, 3, 1).flatten(1, 2)


def divided(gradient: Tensor) -> Tensor:
    """Its gradient's way back."""
    return torch.unflatten(UPSAMPLED_BOTH @ gradient, 1, (3, 3)).permute(0, 3, 1, 2)


def last(module: Transposed, height: int, width: int) -> Part:
    """The same into the channels of pixels, of which four lie around each corner."""
    c, pixels = module.in_channels, module.out_channels
    upsampled = isinstance(module, UpsampledConv2d)

    def weights(weight: Tensor) -> Tensor:
        taps = merged(weight) if upsampled else weight.permute(1, 2, 3, 0).flatten(1, 2)  # (O, 16, C)
        places = torch.unflatten(taps, 1, (2, 2, 2, 2)).flip(1, 3)  # the last taps belong to the first place
        return places.permute(2, 4, 0, 1, 3, 5).contiguous()  # (rows, columns, O) x (places above, beside) x C

    def weights_back(gradient: Tensor) -> Tensor:
        taps = gradient.permute(2, 3, 0, 4, 1, 5).flip(1, 3).reshape(pixels, 16, c)
        return divided(taps) if upsampled else torch.unflatten(taps, 1, (4, 4)).permute(3, 0, 1, 2)

    def biases_back(gradient: Tensor) -> Tensor:
        return gradient[: 4 * pixels].view(4, pixels).sum(0)

    shape = Shape(plans.corners(height, width), height * width, c, 4 * pixels, (c, 1, 4 * c))
    repeated: Change = lambda bias: F.pad(bias.repeat(4), (0, LANES - 4 * pixels))  # noqa: E731
    return Part(module, shape, weights, weights_back, repeated, biases_back)


def parts(layers: Sequence[nn.Module], height: int, width: int) -> list[Part]:
    """The layers of encoder and decoder, from pixels to pixels."""
    found: list[Part] = []
    for number, module in enumerate(layers):
        following = [type(each) for each in layers[number + 1 : number + 3]]
        relu, pool = nn.ReLU in following[:1], nn.MaxPool2d in following[:1]
        if isinstance(module, nn.Linear):
            make = spreading if nn.Unflatten in following[:1] else gathering
            found.append(make(module, height * width))
        elif isinstance(module, Transposed):
            final = number == len(layers) - 1
            found.append(last(module, height, width) if final else doubling(module, height, width, relu=relu))
            height, width = 2 * height, 2 * width
        elif isinstance(module, nn.Conv2d):
            make_convolution = convolution if found else first
            made = make_convolution(module, height, width, relu=nn.ReLU in following, pool=pool)
            shrunk = module.stride[0] * (2 if pool else 1)
            height, width = -(-height // shrunk), -(-width // shrunk)
            found.append(made)
    return found


def places_between(layers: Sequence[nn.Module], height: int, width: int) -> int:
    """Places of what dense layers are made from: what strides have left of a picture."""
    strides = [int(each.stride[0]) for each in layers if isinstance(each, nn.Conv2d)]
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height * width


class NativeNetwork:
    """The layers of an autoencoder, from pictures to logits, by the kernels."""

    def __init__(self, parts: Sequence[Part], height: int, width: int, channels: int) -> None:
        self.size, self.parts = (height, width, channels), parts
        stride = int(parts[0].module.stride[0])  # type: ignore[index]
        rows, columns = plans.places(-(-height // stride), -(-width // stride), pooled=parts[0].shape.pool)
        lines = stride * rows[:, None] + np.arange(3)
        self.windows = channels * (lines * (width + 2) + stride * columns[:, None])
        self.corners = plans.pixels(height // 2, width // 2, channels)
        weights = 2 * sum(part.module.weight.numel() for part in parts)  # bytes, which are read for each few pictures
        fit = max(BYTES, weights) // sum(part.shape.bytes for part in parts)
        self.at_once = max(2, round(fit / ROWS) * ROWS)
        self.idle: list[Memory] = []  # that nobody uses now

    @classmethod
    def of(cls, layers: Sequence[nn.Module], height: int, width: int, channels: int) -> NativeNetwork | None:
        """The layers of encoder and decoder for pictures of this size; None where that cannot be."""
        dense = [each for each in layers if isinstance(each, nn.Linear)]
        many = any(each.weight.numel() > MOST_WEIGHTS for each in dense) or height * width > MOST_PIXELS
        if library() is None or many or (dense and places_between(layers, height, width) > MOST_PLACES):
            return None
        found = parts(layers, height, width)
        between = [part.shape.n for part in found[:-1]]
        return None if any(n % LANES for n in between) else cls(found, height, width, channels)

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases in turn; all layers have both."""
        both = ((part.module.weight, part.module.bias) for part in self.parts)
        return [each for pair in both for each in pair]  # type: ignore[misc]

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> logits of the same shape, float32, channels last; what loss is made of."""
        with torch.autocast("cpu", enabled=False):  # weights come in float32
            return Step.apply(self, as_pixels(batch), *self.parameters)  # type: ignore[no-any-return, no-untyped-call]

    def errors(self, batch: Tensor, kind: Literal["l1", "mse"], *, bf16: bool) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> reconstructions of that shape, and their errors (N, H, W); without gradients."""
        pixels, threads = as_pixels(batch), torch.get_num_threads()
        rebuilt, errors = torch.empty_like(pixels), pixels.new_empty(len(pixels), *pixels.shape[2:])
        memory = self.taken(min(self.at_once, len(pixels) + 1) * threads, threads, learning=False, paired=bf16)
        state = known_state(self.parameters)
        if state is None or memory.packed != state:
            with torch.autocast("cpu", enabled=False):
                memory.pack(self.weights(), self.biases())
            memory.packed = state
        memory.forward(pixels, len(pixels), rebuilt, errors, kind)
        self.idle.append(memory)
        return rebuilt, errors

    def weights(self) -> list[Tensor]:
        """As the kernels take them."""
        return [part.weights(each.detach()) for part, each in zip(self.parts, self.parameters[::2], strict=True)]

    def biases(self) -> list[Tensor]:
        """As the kernels take them."""
        return [part.biases(each.detach()) for part, each in zip(self.parts, self.parameters[1::2], strict=True)]

    def taken(self, room: int, threads: int, *, learning: bool, paired: bool = True) -> Memory:
        """Memory for so many pictures; what has become too small is let go."""
        for found in list(self.idle):
            if (found.threads, found.learning, found.paired) == (threads, learning, paired):
                with contextlib.suppress(ValueError):  # another thread was quicker
                    self.idle.remove(found)
                    if found.room >= room:
                        return found
        shapes = [part.shape for part in self.parts]
        return allocated(shapes, self.size, self.windows, self.corners, room, threads, learning=learning, paired=paired)


class Step(torch.autograd.Function):
    """A step of learning."""

    @staticmethod
    def forward(ctx: Any, native: NativeNetwork, pixels: Tensor, *parameters: Tensor) -> Tensor:
        """Pixels (N, C, H, W), channels last, to logits."""
        ctx.native, ctx.count = native, len(pixels)
        ctx.weights, ctx.biases = native.weights(), native.biases()
        ctx.memory = native.taken(len(pixels), torch.get_num_threads(), learning=True)
        ctx.memory.pack(ctx.weights, ctx.biases)
        logits = torch.empty_like(pixels)
        ctx.memory.forward(pixels, len(pixels), logits)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the logits to those of all parameters."""
        native, memory, ctx.memory = ctx.native, ctx.memory, None
        assert memory is not None, "the gradients of a step are taken once"  # noqa: S101 - what it needs is gone
        given = slopes[0].float().contiguous(memory_format=torch.channels_last)
        weights, biases = ([torch.empty_like(each) for each in some] for some in (ctx.weights, ctx.biases))
        memory.backward(given, ctx.count, weights, biases)
        native.idle.append(memory)
        found: list[Tensor | None] = [None, None]
        with torch.autocast("cpu", enabled=False):
            for part, weight, bias in zip(native.parts, weights, biases, strict=True):
                found += [part.weights_back(weight), part.biases_back(bias)]
        return tuple(found)


def known_state(parameters: Sequence[Tensor]) -> list[tuple[int, int]] | None:
    """What changes when parameters do; None where they do not say (those that were made for inference alone).

    Numbers that are changed through `.data` do not say so either: that is not seen.
    """
    if any(each.is_inference() for each in parameters):
        return None
    return [(each.data_ptr(), each._version) for each in parameters]


def as_pixels(batch: Tensor) -> Tensor:
    """(N, C, H, W) in float32, channels last."""
    return batch.float().contiguous(memory_format=torch.channels_last)
