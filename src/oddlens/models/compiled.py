"""An autoencoder's layers through the kernels in C, in bfloat16; parameters, gradients and logits are PyTorch's.

Where the kernels cannot be had, or the layers are not made for them, there is none, and PyTorch's own layers work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.kernels import library, plans
from oddlens.kernels.network import LANES, Memory, Shape, allocated
from oddlens.models.products import PHASES, UPSAMPLED_BOTH, UpsampledConv2d

SLICE = 32  # pictures a thread at a time when scoring: what lies between layers stays in the cache
MOST_CHANNELS = 4  # of pictures: four pixels' fill a register

Change = Callable[[Tensor], Tensor]


def same(tensor: Tensor) -> Tensor:
    """No change."""
    return tensor


def channels_last(weight: Tensor) -> Tensor:
    """The same weights, (O, 3, 3, C) in memory."""
    return weight.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Part:
    """A layer: as the kernels see it, and how its parameters and their gradients come and go."""

    module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear
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


def doubling(module: nn.Module, height: int, width: int, *, relu: bool) -> Part:
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
    return (UPSAMPLED_BOTH @ gradient).unflatten(1, (3, 3)).permute(0, 3, 1, 2)


def last(module: nn.Module, height: int, width: int) -> Part:
    """The same into the channels of pixels: a 3x3 convolution with lanes for four of them."""
    c, pixels = module.in_channels, module.out_channels
    size = 16 * c * pixels
    upsampled = isinstance(module, UpsampledConv2d)
    order = (pixels, 16, c) if upsampled else (c, 16, pixels)  # of the transposed convolution's weights in memory
    numbers = torch.arange(1, 1 + size, dtype=torch.float64).view(order)
    taps = numbers.permute(2, 0, 1) if upsampled else numbers.permute(0, 2, 1)
    phases = [PHASES.double()] * 2
    found = torch.einsum("coab,aqi,brj->qroijc", taps.unflatten(2, (4, 4)), *phases).flatten().long()
    source = torch.where(found > 0, found - 1, size)  # of each lane's weights, of which most are 0
    place = torch.empty(size, dtype=torch.long)
    place[found[found > 0] - 1] = torch.nonzero(found)[:, 0]

    def weights(weight: Tensor) -> Tensor:
        flat = merged(weight) if upsampled else weight.permute(0, 2, 3, 1)
        return F.pad(flat.reshape(-1), (0, 1))[source]

    def weights_back(gradient: Tensor) -> Tensor:
        flat = gradient[place].view(order)
        return divided(flat) if upsampled else flat.unflatten(1, (4, 4)).permute(0, 3, 1, 2)

    def biases_back(gradient: Tensor) -> Tensor:
        return gradient[: 4 * pixels].view(4, pixels).sum(0)

    shape = Shape(plans.strided(height, width, 1), height * width, c, 4 * pixels, (c, 1, 9 * c))
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
        elif isinstance(module, UpsampledConv2d | nn.ConvTranspose2d):
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


class Idle(list[Memory]):
    """Memory that nobody uses now; a copy of a model begins without."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Idle:
        return Idle()


class Compiled:
    """The layers of an autoencoder, from pictures to logits."""

    def __init__(self, parts: Sequence[Part], height: int, width: int, channels: int) -> None:
        self.size, self.parts = (height, width, channels), parts
        stride = int(parts[0].module.stride[0])  # type: ignore[index,arg-type]
        rows, columns = plans.places(-(-height // stride), -(-width // stride), pooled=parts[0].shape.pool)
        lines = stride * rows[:, None] + np.arange(3)
        self.windows = channels * (lines * (width + 2) + stride * columns[:, None])
        self.idle = Idle()

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> logits of the same shape, float32, channels last."""
        pixels = batch.float().contiguous(memory_format=torch.channels_last)
        parameters = [each for part in self.parts for each in (part.module.weight, part.module.bias)]
        with torch.autocast("cpu", enabled=False):  # weights come in float32
            if torch.is_grad_enabled():
                return Step.apply(self, pixels, *parameters)  # type: ignore[no-any-return, no-untyped-call]
            return self.score(pixels, parameters)

    def score(self, pixels: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The same without gradients, a slice of the pictures after the other."""
        threads, logits = torch.get_num_threads(), torch.empty_like(pixels)
        room = SLICE * threads
        memory = self.taken(room, threads, learning=False)
        weights, biases = self.given(parameters)
        memory.pack(addresses(weights))
        for some, made in zip(pixels.split(room), logits.split(room), strict=True):
            memory.forward(addresses(biases), some.data_ptr(), len(some), made.data_ptr())
        self.idle.append(memory)
        return logits

    def given(self, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases as the kernels take them."""
        weights = [part.weights(each.detach()) for part, each in zip(self.parts, parameters[::2], strict=True)]
        biases = [part.biases(each.detach()) for part, each in zip(self.parts, parameters[1::2], strict=True)]
        return weights, biases

    def taken(self, room: int, threads: int, *, learning: bool) -> Memory:
        """Memory for so many pictures; what does not fit any more is let go."""
        while self.idle:
            found = self.idle.pop()
            if found.room >= room and (found.threads, found.learning) == (threads, learning):
                return found
        shapes = [part.shape for part in self.parts]
        return allocated(shapes, self.size, self.windows, room, threads, learning=learning)


class Step(torch.autograd.Function):
    """A step of learning."""

    @staticmethod
    def forward(ctx: Any, compiled: Compiled, pixels: Tensor, *parameters: Tensor) -> Tensor:
        """Pixels (N, C, H, W), channels last, to logits."""
        ctx.compiled, ctx.count = compiled, len(pixels)
        ctx.weights, ctx.biases = compiled.given(parameters)
        ctx.memory = compiled.taken(len(pixels), torch.get_num_threads(), learning=True)
        ctx.memory.pack(addresses(ctx.weights))
        logits = torch.empty_like(pixels)
        ctx.memory.forward(addresses(ctx.biases), pixels.data_ptr(), len(pixels), logits.data_ptr())
        return logits

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the logits to those of all parameters."""
        compiled, given = ctx.compiled, slopes[0].contiguous(memory_format=torch.channels_last)
        weights, biases = ([torch.empty_like(each) for each in some] for some in (ctx.weights, ctx.biases))
        ctx.memory.backward(given.data_ptr(), ctx.count, addresses(weights), addresses(biases))
        compiled.idle.append(ctx.memory)
        found: list[Tensor | None] = [None, None]
        for part, weight, bias in zip(compiled.parts, weights, biases, strict=True):
            found += [part.weights_back(weight), part.biases_back(bias)]
        return tuple(found)


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Where their numbers lie."""
    return [each.data_ptr() for each in tensors]


def compiled(layers: Sequence[nn.Module], height: int, width: int, channels: int) -> Compiled | None:
    """The layers of encoder and decoder, compiled for pictures of this size; None where that cannot be.

    Processors with a matrix unit (AMX) multiply faster with PyTorch's own layers.
    """
    made_for = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
    if not made_for or channels > MOST_CHANNELS or library() is None:
        return None
    found = parts(layers, height, width)
    hidden = [part.shape.n for part in found[:-1]]
    return None if any(n % LANES for n in hidden) else Compiled(found, height, width, channels)
