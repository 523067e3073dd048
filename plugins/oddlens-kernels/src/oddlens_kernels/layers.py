"""The layers of an autoencoder in the form of the kernels, and the layouts of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.conv_variants import UPSAMPLING_TAPS_2D, UpsampledConv2d
from oddlens_kernels import plans
from oddlens_kernels.network import LayerShape
from oddlens_kernels.structures import LANES

TensorMap = Callable[[Tensor], Tensor]
LAYER_TYPES = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Unflatten)
UpsamplingModule = UpsampledConv2d | nn.ConvTranspose2d  # doubles height and width


def identity(tensor: Tensor) -> Tensor:
    """Return the tensor unchanged."""
    return tensor


def channels_last(weight: Tensor) -> Tensor:
    """Weights (O, C, 3, 3) that are stored as (O, 3, 3, C)."""
    return weight.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class KernelLayer:
    """A module, its shape for the kernels, and the layout changes of its parameters and their gradients."""

    module: nn.Conv2d | UpsamplingModule | nn.Linear
    shape: LayerShape
    pack_weights: TensorMap = channels_last
    unpack_weight_gradient: TensorMap = identity
    pack_biases: TensorMap = Tensor.contiguous
    unpack_bias_gradient: TensorMap = identity


def first_convolution(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> KernelLayer:
    """First convolution: one set of weights, for the whole window of a place."""
    count, c = -(-height // module.stride[0]) * -(-width // module.stride[0]), 9 * module.in_channels
    shape = LayerShape(np.arange(count)[:, None], count, c, module.out_channels, (0, 1, c), relu, pool)
    return KernelLayer(module, shape)


def hidden_convolution(module: nn.Conv2d, height: int, width: int, *, relu: bool, pool: bool) -> KernelLayer:
    """Convolution of hidden activations."""
    table = plans.strided_convolution(height, width, module.stride[0], pooled=pool)
    c, n = module.in_channels, module.out_channels
    return KernelLayer(module, LayerShape(table, height * width, c, n, (c, 1, 9 * c), relu, pool))


def dense_from_places(module: nn.Linear, count: int) -> KernelLayer:
    """Dense layer from all places to one; its inputs are ordered by channel, then place."""
    c, n = module.in_features // count, module.out_features
    shape = LayerShape(plans.dense_from_places(count), count, c, n, (n, count * n, 1))
    return KernelLayer(module, shape, lambda weight: weight.T.contiguous(), lambda gradient: gradient.T)


def dense_to_places(module: nn.Linear, count: int) -> KernelLayer:
    """Dense layer from one place to all; its outputs are ordered by channel, then place."""
    c, n = module.in_features, module.out_features // count
    shape = LayerShape(plans.dense_to_places(count), 1, c, n, (c, 1, count * c), bias_per_place=True)
    return KernelLayer(
        module, shape, Tensor.contiguous, identity,
        lambda bias: bias.view(n, count).T.contiguous(), lambda gradient: gradient.T.reshape(-1),
    )  # fmt: skip


def transposed_convolution(module: UpsamplingModule, height: int, width: int, *, relu: bool) -> KernelLayer:
    """Transposed 4x4 convolution with stride 2, or the one that equals up-sampling and a 3x3 convolution."""
    c, n = module.in_channels, module.out_channels
    table, count = plans.transposed_convolution(height, width), height * width
    if isinstance(module, UpsampledConv2d):
        return KernelLayer(
            module,
            LayerShape(table, count, c, n, (c, 1, 16 * c), relu),
            upsampling_to_transposed,
            transposed_to_upsampling,
        )
    return KernelLayer(module, LayerShape(table, count, c, n, (n, 16 * n, 1), relu))


def upsampling_to_transposed(weight: Tensor) -> Tensor:
    """Weights (O, C, 3, 3) of a convolution after up-sampling -> (O, 16, C), those of the equal transposed one."""
    return UPSAMPLING_TAPS_2D.T @ weight.permute(0, 2, 3, 1).flatten(1, 2)


def transposed_to_upsampling(gradient: Tensor) -> Tensor:
    """Gradient with respect to the weights (O, C, 3, 3), from that of the transposed convolution (O, 16, C)."""
    return torch.unflatten(UPSAMPLING_TAPS_2D @ gradient, 1, (3, 3)).permute(0, 3, 1, 2)


def last_convolution(module: UpsamplingModule, height: int, width: int) -> KernelLayer:
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
    return KernelLayer(module, shape, pack_weights, unpack_weight_gradient, pack_biases, unpack_bias_gradient)


def kernel_layers(modules: Sequence[nn.Module], height: int, width: int) -> list[KernelLayer]:
    """Convert the modules of encoder and decoder, from pixels to pixels."""
    layers: list[KernelLayer] = []
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
