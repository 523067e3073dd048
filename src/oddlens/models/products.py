"""Convolutions in the form that is fastest: up-sampling ones at low resolution, gradients as matrix products.

A convolution after up-sampling, and a transposed one, give each 2 x 2 block of their output from the 2 x 2 block of
input places around it. So both are one convolution with 2 x 2 weights and four times the channels, which are then dealt
out to the block's places (Shi et al., "sub-pixel convolution", CVPR 2016): no zeros and no copies are multiplied.

oneDNN's bfloat16 gradients of a convolution's weights take several times as long as the convolution itself. Where the
places that an output looks at can be laid out cheaply, they are one matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OVERLAP = 4.0  # places that see each number of the input, beyond which laying them out costs too much
FEW = 4  # input channels up to which it never does
MERGED = ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)), ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0))  # [place in block][input place][tap]


class Conv2d(nn.Conv2d):
    """PyTorch's convolution; its gradients in bfloat16 on a CPU are matrix products where those are faster."""

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        return convolved(batch, self.weight, self.bias, self.stride[0], int(self.padding[0]), self.training)


class UpConv2d(nn.Conv2d):
    """Nearest up-sampling by 2, then a 3 x 3 convolution: the same numbers from the small picture."""

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        merged = torch.tensor(MERGED, dtype=self.weight.dtype, device=self.weight.device)
        weight = torch.einsum("atk,bul,ockl->oabctu", merged, merged, self.weight)
        return in_blocks(batch, weight, self.bias, self.training)


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's transposed convolution of kernel 4, stride 2 and padding 1, as a convolution."""

    def forward(self, batch: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        taps = self.weight.view(*self.weight.shape[:2], 2, 2, 2, 2).flip(2, 4)  # (C, O, t, a, u, b)
        return in_blocks(batch, taps.permute(1, 3, 5, 0, 2, 4), self.bias, self.training)


def in_blocks(batch: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
    """(N, C, H, W) -> (N, O, 2 H, 2 W) by weights (O, 2, 2, C, 2, 2): place in the block, channel, input place."""
    assert bias is not None  # noqa: S101 - layers are made with one
    found = convolved(batch, weight.flatten(0, 2), bias.repeat_interleave(4), 1, 1, training)  # (N, 4 O, H + 1, W + 1)
    return F.pixel_shuffle(found, 2)[:, :, 1:-1, 1:-1]


def convolved(batch: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, training: bool) -> Tensor:
    """A convolution (N, C, H, W) -> (N, O, h, w); while it learns in bfloat16 on a CPU, by `Convolution`."""
    learns = training and batch.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not learns or bias is None or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return F.conv2d(batch, weight, bias, stride, padding)
    pixels, weight = (each.to(torch.bfloat16, memory_format=torch.channels_last) for each in (batch, weight))
    return Convolution.apply(pixels, weight, bias.to(torch.bfloat16), stride, padding)  # type: ignore[no-any-return, no-untyped-call]


class Convolution(torch.autograd.Function):
    """A convolution of a square kernel, whose gradients are other convolutions and matrix products."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(batch, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the batch, where it needs one, of weight and bias."""
        batch, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        side, stride, padding = weight.shape[2], ctx.stride, ctx.padding
        by_product = side**2 <= OVERLAP * stride**2 or weight.shape[1] <= FEW
        turned = ctx.needs_input_grad[0] and stride == 1
        wanted = (ctx.needs_input_grad[0] and not turned, not by_product, not by_product)
        to_batch, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient, batch, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, wanted
        ) if any(wanted) else (None, None, None)  # fmt: skip
        if turned:
            mirrored = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            to_batch = F.conv2d(gradient, mirrored, None, 1, side - 1 - padding)
        if by_product:
            product = flat(gradient).T @ windows(batch, side, stride, padding)  # (O, side * side * C)
            to_weight = product.view(len(weight), side, side, -1).permute(0, 3, 1, 2)
            to_bias = gradient.sum(dim=(0, 2, 3))
        return to_batch, to_weight, to_bias, None, None


def flat(batch: Tensor) -> Tensor:
    """(N, C, H, W), channels last -> (N H W, C), the same memory."""
    return batch.permute(0, 2, 3, 1).reshape(-1, batch.shape[1])


def windows(batch: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) -> (N h w, side * side * C): what each output place of a convolution looks at."""
    around = F.pad(batch.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    count, height, width, channels = around.shape
    down, across = ((n - side) // stride + 1 for n in (height, width))
    row = width * channels
    return around.as_strided(
        (count, down, across, side, side * channels), (height * row, stride * row, stride * channels, row, 1)
    ).reshape(count * down * across, side * side * channels)
