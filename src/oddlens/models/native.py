"""The layers of an autoencoder run by the C kernels; parameters, gradients and logits are PyTorch tensors.

Training is in bfloat16, scoring in bfloat16 or float32. Where the kernels are not available, or do not support the
layers, there is no `NativeNetwork`, and the PyTorch layers run instead.
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
from oddlens.kernels.network import LANES, ROWS, LayerShape, Memory, allocate
from oddlens.models.conv_variants import UPSAMPLING_TAPS_2D, UpsampledConv2d

CACHE_BYTES = 2**20  # of activations: a thread scores as many images at a time as stay in its cache
MAX_DENSE_WEIGHTS = 2**25  # larger dense layers are bound by memory bandwidth
MAX_DENSE_PLACES = 2**11  # before a dense layer, whose table has their square as its size
MAX_IMAGE_PIXELS = 2**20  # tables hold a few numbers a pixel, and places are counted in 32 bits

TensorMap = Callable[[Tensor], Tensor]
UpsamplingModule = UpsampledConv2d | nn.ConvTranspose2d  # doubles height and width


def identity(tensor: Tensor) -> Tensor:
    """Return the tensor unchanged."""
    return tensor


def channels_last(weight: Tensor) -> Tensor:
    """Weights (O, C, 3, 3) that are stored as (O, 3, 3, C)."""
    return weight.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class NativeLayer:
    """A module, its shape for the kernels, and the layout changes of its parameters and their gradients."""

    module: nn.Conv2d | UpsamplingModule | nn.Linear
    shape: LayerShape
    pack_weights: TensorMap = channels_last
    unpack_weight_gradient: TensorMap = identity
    pack_biases: TensorMap = identity
    unpack_bias_gradient: TensorMap = identity


def first_convolution(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> NativeLayer:
    """First convolution: one set of weights, for the whole window of a place."""
    count, c = -(-height // module.stride[0]) * -(-width // module.stride[0]), 9 * module.in_channels
    shape = LayerShape(np.arange(count)[:, None], count, c, module.out_channels, (0, 1, c), relu, pool)
    return NativeLayer(module, shape)


def hidden_convolution(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> NativeLayer:
    """Convolution of hidden activations."""
    table = plans.strided_convolution(height, width, module.stride[0], pooled=pool)
    c, n = module.in_channels, module.out_channels
    return NativeLayer(module, LayerShape(table, height * width, c, n, (c, 1, 9 * c), relu, pool))


def dense_from_places(module: nn.Linear, count: int) -> NativeLayer:
    """Dense layer from all places to one; its inputs are ordered by channel, then place."""
    c, n = module.in_features // count, module.out_features
    shape = LayerShape(plans.dense_from_places(count), count, c, n, (n, count * n, 1))
    return NativeLayer(module, shape, lambda weight: weight.T.contiguous(), lambda gradient: gradient.T)


def dense_to_places(module: nn.Linear, count: int) -> NativeLayer:
    """Dense layer from one place to all; its outputs are ordered by channel, then place."""
    c, n = module.in_features, module.out_features // count
    shape = LayerShape(plans.dense_to_places(count), 1, c, n, (c, 1, count * c), bias_per_place=True)
    return NativeLayer(
        module, shape, Tensor.contiguous, identity,
        lambda bias: bias.view(n, count).T.contiguous(), lambda gradient: gradient.T.reshape(-1),
    )  # fmt: skip


def transposed_convolution(module: UpsamplingModule, height: int, width: int, *, relu: bool) -> NativeLayer:
    """Transposed 4x4 convolution with stride 2, or the one that equals up-sampling and a 3x3 convolution."""
    c, n = module.in_channels, module.out_channels
    table, count = plans.transposed_convolution(height, width), height * width
    if isinstance(module, UpsampledConv2d):
        return NativeLayer(
            module,
            LayerShape(table, count, c, n, (c, 1, 16 * c), relu),
            upsampling_to_transposed,
            transposed_to_upsampling,
        )
    return NativeLayer(module, LayerShape(table, count, c, n, (n, 16 * n, 1), relu))


def upsampling_to_transposed(weight: Tensor) -> Tensor:
    """Weights (O, C, 3, 3) of a convolution after up-sampling -> (O, 16, C), those of the equal transposed one."""
    return UPSAMPLING_TAPS_2D.T @ weight.permute(0, 2, 3, 1).flatten(1, 2)


def transposed_to_upsampling(gradient: Tensor) -> Tensor:
    """Gradient with respect to the weights (O, C, 3, 3), from that of the transposed convolution (O, 16, C)."""
    return torch.unflatten(UPSAMPLING_TAPS_2D @ gradient, 1, (3, 3)).permute(0, 3, 1, 2)


def last_convolution(module: UpsamplingModule, height: int, width: int) -> NativeLayer:
    """Last transposed convolution, whose outputs are the channels of the four pixels around each corner."""
    c, pixels = module.in_channels, module.out_channels
    is_upsampled = isinstance(module, UpsampledConv2d)

    def pack_weights(weight: Tensor) -> Tensor:
        # (O, 16, C)
        taps = upsampling_to_transposed(weight) if is_upsampled else weight.permute(1, 2, 3, 0).flatten(1, 2)
        places = torch.unflatten(taps, 1, (2, 2, 2, 2)).flip(1, 3)  # the last taps belong to the first place
        # (rows, columns, O) x (places above and below, left and right) x C
        return places.permute(2, 4, 0, 1, 3, 5).contiguous()

    def pack_biases(bias: Tensor) -> Tensor:
        return F.pad(bias.repeat(4), (0, LANES - 4 * pixels))

    def unpack_weight_gradient(gradient: Tensor) -> Tensor:
        taps = gradient.permute(2, 3, 0, 4, 1, 5).flip(1, 3).reshape(pixels, 16, c)
        return transposed_to_upsampling(taps) if is_upsampled else torch.unflatten(taps, 1, (4, 4)).permute(3, 0, 1, 2)

    def unpack_bias_gradient(gradient: Tensor) -> Tensor:
        return gradient[: 4 * pixels].view(4, pixels).sum(0)

    shape = LayerShape(plans.corners(height, width), height * width, c, 4 * pixels, (c, 1, 4 * c))
    return NativeLayer(module, shape, pack_weights, unpack_weight_gradient, pack_biases, unpack_bias_gradient)


def native_layers(modules: Sequence[nn.Module], height: int, width: int) -> list[NativeLayer]:
    """Convert the modules of encoder and decoder, from pixels to pixels."""
    layers: list[NativeLayer] = []
    for number, module in enumerate(modules):
        next_types = [type(following) for following in modules[number + 1 : number + 3]]
        relu, pool = nn.ReLU in next_types[:1], nn.MaxPool2d in next_types[:1]
        if isinstance(module, nn.Linear):
            dense = dense_to_places if nn.Unflatten in next_types[:1] else dense_from_places
            layers.append(dense(module, height * width))
        elif isinstance(module, UpsamplingModule):
            is_last = number == len(modules) - 1
            layers.append(
                last_convolution(module, height, width)
                if is_last
                else transposed_convolution(module, height, width, relu=relu)
            )
            height, width = 2 * height, 2 * width
        elif isinstance(module, nn.Conv2d):
            convolution = hidden_convolution if layers else first_convolution
            layers.append(convolution(module, height, width, relu=nn.ReLU in next_types, pool=pool))
            stride = module.stride[0] * (2 if pool else 1)
            height, width = -(-height // stride), -(-width // stride)
    return layers


def bottleneck_places(modules: Sequence[nn.Module], height: int, width: int) -> int:
    """Number of places that the strides leave of an image, before the dense layers."""
    strides = [int(module.stride[0]) for module in modules if isinstance(module, nn.Conv2d)]
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height * width


class NativeNetwork:
    """The layers of an autoencoder, from images to logits, run by the C kernels."""

    def __init__(self, layers: Sequence[NativeLayer], height: int, width: int, channels: int) -> None:
        self.size, self.layers = (height, width, channels), layers
        stride = int(layers[0].module.stride[0])  # type: ignore[index]
        rows, columns = plans.place_coordinates(-(-height // stride), -(-width // stride), pooled=layers[0].shape.pool)
        window_rows = stride * rows[:, None] + np.arange(3)
        self.windows = channels * (window_rows * (width + 2) + stride * columns[:, None])
        self.corners = plans.corner_pixels(height // 2, width // 2, channels)
        weight_bytes = 2 * sum(layer.module.weight.numel() for layer in layers)  # read once for each group of images
        n_images = max(CACHE_BYTES, weight_bytes) // sum(layer.shape.bytes for layer in layers)
        self.images_per_thread = max(2, round(n_images / ROWS) * ROWS)
        self.idle: list[Memory] = []  # not in use; reused by later calls

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], height: int, width: int, channels: int) -> NativeNetwork | None:
        """Network of the modules of encoder and decoder, for this image size; None if the kernels do not support it."""
        dense = [module for module in modules if isinstance(module, nn.Linear)]
        too_large = (
            any(module.weight.numel() > MAX_DENSE_WEIGHTS for module in dense) or height * width > MAX_IMAGE_PIXELS
        )
        if library() is None or too_large or (dense and bottleneck_places(modules, height, width) > MAX_DENSE_PLACES):
            return None
        layers = native_layers(modules, height, width)
        hidden_widths = [layer.shape.n for layer in layers[:-1]]
        return None if any(n % LANES for n in hidden_widths) else cls(layers, height, width, channels)

    @property
    def parameters(self) -> list[Tensor]:
        """Weight and bias of each layer, alternating."""
        pairs = ((layer.module.weight, layer.module.bias) for layer in self.layers)
        return [parameter for pair in pairs for parameter in pair]  # type: ignore[misc]

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> logits of the same shape, float32, channels last; differentiable, for the loss."""
        with torch.autocast("cpu", enabled=False):  # weights are float32
            return TrainingStep.apply(self, to_channels_last(batch), *self.parameters)  # type: ignore[no-any-return, no-untyped-call]

    def errors(self, batch: Tensor, kind: Literal["l1", "mse"], *, bf16: bool) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> reconstructions of the same shape and their errors (N, H, W); without gradients."""
        pixels, threads = to_channels_last(batch), torch.get_num_threads()
        rebuilt, errors = torch.empty_like(pixels), pixels.new_empty(len(pixels), *pixels.shape[2:])
        memory = self.acquire_memory(
            min(self.images_per_thread, len(pixels) + 1) * threads, threads, training=False, bf16=bf16
        )
        state = parameter_versions(self.parameters)
        if state is None or memory.packed != state:
            with torch.autocast("cpu", enabled=False):
                memory.pack(self.packed_weights(), self.packed_biases())
            memory.packed = state
        memory.forward(pixels, len(pixels), rebuilt, errors, kind)
        self.idle.append(memory)
        return rebuilt, errors

    def packed_weights(self) -> list[Tensor]:
        """Weights in the layout of the kernels."""
        return [
            layer.pack_weights(weight.detach()) for layer, weight in zip(self.layers, self.parameters[::2], strict=True)
        ]

    def packed_biases(self) -> list[Tensor]:
        """Biases in the layout of the kernels."""
        return [
            layer.pack_biases(bias.detach()) for layer, bias in zip(self.layers, self.parameters[1::2], strict=True)
        ]

    def acquire_memory(self, capacity: int, threads: int, *, training: bool, bf16: bool = True) -> Memory:
        """Memory for at least `capacity` images, reused if possible; idle memory that is too small is released."""
        for memory in list(self.idle):
            if (memory.threads, memory.training, memory.bf16) == (threads, training, bf16):
                with contextlib.suppress(ValueError):  # another thread was quicker
                    self.idle.remove(memory)
                    if memory.capacity >= capacity:
                        return memory
        shapes = [layer.shape for layer in self.layers]
        return allocate(shapes, self.size, self.windows, self.corners, capacity, threads, training=training, bf16=bf16)


class TrainingStep(torch.autograd.Function):
    """Forward and backward pass of a training step."""

    @staticmethod
    def forward(ctx: Any, native: NativeNetwork, pixels: Tensor, *parameters: Tensor) -> Tensor:
        """Logits of pixels (N, C, H, W), channels last."""
        ctx.native, ctx.count = native, len(pixels)
        ctx.weights, ctx.biases = native.packed_weights(), native.packed_biases()
        ctx.memory = native.acquire_memory(len(pixels), torch.get_num_threads(), training=True)
        ctx.memory.pack(ctx.weights, ctx.biases)
        logits = torch.empty_like(pixels)
        ctx.memory.forward(pixels, len(pixels), logits)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all parameters, from those of the logits.

        Raises:
            RuntimeError: called a second time; the activations have been released.
        """
        native, memory, ctx.memory = ctx.native, ctx.memory, None
        if memory is None:
            raise RuntimeError("backward() was called twice on one step, but works only once: repeat the forward pass")
        logit_gradients = gradients[0].float().contiguous(memory_format=torch.channels_last)
        weights, biases = ([torch.empty_like(t) for t in tensors] for tensors in (ctx.weights, ctx.biases))
        memory.backward(logit_gradients, ctx.count, weights, biases)
        native.idle.append(memory)
        parameter_gradients: list[Tensor | None] = [None, None]
        with torch.autocast("cpu", enabled=False):
            for layer, weight, bias in zip(native.layers, weights, biases, strict=True):
                parameter_gradients += [layer.unpack_weight_gradient(weight), layer.unpack_bias_gradient(bias)]
        return tuple(parameter_gradients)


def parameter_versions(parameters: Sequence[Tensor]) -> list[tuple[int, int]] | None:
    """Address and version of each parameter; None if they have none (those created in inference mode).

    Changes through `.data` do not raise the version, and are not detected.
    """
    if any(parameter.is_inference() for parameter in parameters):
        return None
    return [(parameter.data_ptr(), parameter._version) for parameter in parameters]


def to_channels_last(batch: Tensor) -> Tensor:
    """(N, C, H, W) in float32, channels last."""
    return batch.float().contiguous(memory_format=torch.channels_last)
