"""An autoencoder run by the kernels; parameters, gradients and logits are PyTorch tensors.

Training is in bfloat16, scoring in bfloat16 or float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from oddlens.errors import StateError
from oddlens_kernels import plans
from oddlens_kernels.layers import LAYER_TYPES, KernelLayer, kernel_layers
from oddlens_kernels.library import ENVIRONMENT_VARIABLE, why_unused
from oddlens_kernels.network import Memory, allocate
from oddlens_kernels.structures import LANES, ROWS

CACHE_BYTES = 2**20  # of activations: a thread scores as many images at a time as stay in its cache
MAX_DENSE_WEIGHTS = 2**25  # larger dense layers are bound by memory bandwidth
MAX_DENSE_PLACES = 2**11  # before a dense layer, whose table has their square as its size
MAX_IMAGE_PIXELS = 2**20  # tables hold a few numbers a pixel, and places are counted in 32 bits
MAX_CHANNELS = 3


def accelerate(layers: Sequence[nn.Module], height: int, width: int, channels: int) -> KernelNetwork | None:
    """An autoencoder's layers, for images of this size; None where the kernels are not used, or not made for them.

    Raises:
        SettingsError: `ODDLENS_KERNELS` is neither `on` nor `off`.
        PluginError: the library of the kernels cannot be loaded.
    """
    if why_unused() or channels > MAX_CHANNELS or height * width > MAX_IMAGE_PIXELS:
        return None
    if not all(isinstance(layer, LAYER_TYPES) for layer in layers):
        return None
    dense = [layer for layer in layers if isinstance(layer, nn.Linear)]
    too_large = any(layer.weight.numel() > MAX_DENSE_WEIGHTS for layer in dense)
    if too_large or (dense and bottleneck_places(layers, height, width) > MAX_DENSE_PLACES):
        return None
    converted = kernel_layers(layers, height, width)
    hidden_widths = [layer.shape.n for layer in converted[:-1]]
    return None if any(n % LANES for n in hidden_widths) else KernelNetwork(converted, height, width, channels)


def bottleneck_places(modules: Sequence[nn.Module], height: int, width: int) -> int:
    """Number of places that the strides leave of an image, before the dense layers."""
    strides = [int(module.stride[0]) for module in modules if isinstance(module, nn.Conv2d)]
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height * width


class KernelNetwork:
    """The layers of an autoencoder, from images to logits, run by the kernels."""

    def __init__(self, layers: Sequence[KernelLayer], height: int, width: int, channels: int) -> None:
        self.size, self.layers = (height, width, channels), layers
        stride = int(layers[0].module.stride[0])  # type: ignore[index]
        rows, columns = plans.place_coordinates(-(-height // stride), -(-width // stride), pooled=layers[0].shape.pool)
        window_rows = stride * rows[:, None] + np.arange(3)
        self.windows = channels * (window_rows * (width + 2) + stride * columns[:, None])
        self.corners = plans.corner_pixels(height // 2, width // 2, channels)
        weight_bytes = 2 * sum(layer.module.weight.numel() for layer in layers)  # read once for each group of images
        n_images = max(CACHE_BYTES, weight_bytes) // sum(layer.shape.bytes for layer in layers)
        self.images_per_thread = max(2, round(n_images / ROWS) * ROWS)
        self.shapes = [parameter.shape for parameter in self.layer_parameters()]
        self.idle: list[Memory] = []  # not in use; reused by later calls

    def layer_parameters(self) -> list[Tensor]:
        """Weight and bias of each layer, alternating."""
        pairs = ((layer.module.weight, layer.module.bias) for layer in self.layers)
        return [parameter for pair in pairs for parameter in pair]  # type: ignore[misc]

    def parameters(self) -> list[Tensor]:
        """Weight and bias of each layer, alternating, as they are now.

        Raises:
            StateError: one was replaced by a tensor that the kernels would not read correctly.
        """
        parameters = self.layer_parameters()
        for parameter, shape in zip(parameters, self.shapes, strict=True):
            if (parameter.shape, parameter.dtype, parameter.device.type) != (shape, torch.float32, "cpu"):
                raise StateError(
                    f"a parameter is now {parameter.dtype} of shape {tuple(parameter.shape)} on {parameter.device}, "
                    f"but was {torch.float32} of shape {tuple(shape)} on the CPU: build the model again, or set "
                    f"{ENVIRONMENT_VARIABLE}=off"
                )
        return parameters

    def logits(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> logits of the same shape, float32, channels last; differentiable, for the loss."""
        with torch.autocast("cpu", enabled=False):  # weights are float32
            return TrainingStep.apply(self, to_channels_last(batch), *self.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def errors(self, batch: Tensor, kind: Literal["l1", "mse"], *, bf16: bool) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> reconstructions of the same shape and their errors (N, H, W); without gradients."""
        parameters, pixels, threads = self.parameters(), to_channels_last(batch), torch.get_num_threads()
        rebuilt, errors = torch.empty_like(pixels), pixels.new_empty(len(pixels), *pixels.shape[2:])
        capacity = min(self.images_per_thread, len(pixels) + 1) * threads
        memory = self.acquire_memory(capacity, threads, training=False, bf16=bf16)
        if not memory.has_packed(parameters):
            copies = [parameter.detach().clone() for parameter in parameters]
            with torch.autocast("cpu", enabled=False):
                memory.pack(self.packed_weights(copies), self.packed_biases(copies))
            memory.packed = copies
        memory.forward(pixels, len(pixels), rebuilt, errors, kind)
        self.idle.append(memory)
        return rebuilt, errors

    def release(self) -> None:
        """Free the memory that later calls would reuse."""
        self.idle.clear()

    def packed_weights(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Weights in the layout of the kernels."""
        weights = parameters[::2]
        return [layer.pack_weights(weight.detach()) for layer, weight in zip(self.layers, weights, strict=True)]

    def packed_biases(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Biases in the layout of the kernels."""
        biases = parameters[1::2]
        return [layer.pack_biases(bias.detach()) for layer, bias in zip(self.layers, biases, strict=True)]

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
    def forward(ctx: Any, network: KernelNetwork, pixels: Tensor, *parameters: Tensor) -> Tensor:
        """Logits of pixels (N, C, H, W), channels last."""
        ctx.network, ctx.count = network, len(pixels)
        ctx.weights, ctx.biases = network.packed_weights(parameters), network.packed_biases(parameters)
        ctx.memory = network.acquire_memory(len(pixels), torch.get_num_threads(), training=True)
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
        network, memory, ctx.memory = ctx.network, ctx.memory, None
        if memory is None:
            raise RuntimeError("backward() was called twice on one step, but works only once: repeat the forward pass")
        logit_gradients = gradients[0].float().contiguous(memory_format=torch.channels_last)
        weights, biases = ([torch.empty_like(t) for t in tensors] for tensors in (ctx.weights, ctx.biases))
        memory.backward(logit_gradients, ctx.count, weights, biases)
        network.idle.append(memory)
        parameter_gradients: list[Tensor | None] = [None, None]
        with torch.autocast("cpu", enabled=False):
            for layer, weight, bias in zip(network.layers, weights, biases, strict=True):
                parameter_gradients += [layer.unpack_weight_gradient(weight), layer.unpack_bias_gradient(bias)]
        return tuple(parameter_gradients)


def to_channels_last(batch: Tensor) -> Tensor:
    """(N, C, H, W) in float32, channels last."""
    return batch.float().contiguous(memory_format=torch.channels_last)
