"""Strided convolutions that learn faster in bfloat16 on a CPU: the gradients of their weights are matrix products.

oneDNN's bfloat16 gradients of the weights take several times as long as the convolution. Where a convolution strides,
what each output place looks at is laid out cheaply, and then they are one product. Everywhere else, and in scoring,
these layers are PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # channels below which oneDNN's own gradient is faster


class Conv2d(nn.Conv2d):
    """PyTorch's convolution."""

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        if self.stride[0] == 1 or self.in_channels < FEW or not learns_in_bf16(self, batch):
            return super().forward(batch)
        numbers = in_bf16(batch, self.weight, self.bias)
        return Strided.apply(*numbers, self.stride[0], int(self.padding[0]), False)  # type: ignore[no-any-return, no-untyped-call]


class ConvTranspose2d(nn.ConvTranspose2d):
    """PyTorch's transposed convolution."""

    def forward(self, batch: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        if self.stride[0] == 1 or self.out_channels < FEW or not learns_in_bf16(self, batch):
            return super().forward(batch, output_size)
        numbers = in_bf16(batch, self.weight, self.bias)
        return Strided.apply(*numbers, self.stride[0], int(self.padding[0]), True)  # type: ignore[no-any-return, no-untyped-call]


def learns_in_bf16(layer: nn.Module, batch: Tensor) -> bool:
    """Whether this is a step of training in bfloat16 on a CPU."""
    return (
        layer.training
        and batch.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def in_bf16(batch: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same numbers in bfloat16, channels last."""
    assert bias is not None  # noqa: S101 - the layers are made with one
    pixels, weights = (each.to(torch.bfloat16, memory_format=torch.channels_last) for each in (batch, weight))
    return pixels, weights, bias.to(torch.bfloat16)


class Strided(torch.autograd.Function):
    """A convolution with a square kernel, or (`transposed`) its reverse."""

    @staticmethod
    def forward(
        ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding, ctx.transposed = stride, padding, transposed
        convolve = F.conv_transpose2d if transposed else F.conv2d
        with torch.autocast("cpu", enabled=False):
            return convolve(batch, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the batch, where it needs one, of weight and bias."""
        (batch, weight), to_batch = ctx.saved_tensors, None
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            to_batch = torch.ops.aten.convolution_backward(
                gradient, batch, weight, None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], ctx.transposed, [0, 0], 1,
                (True, False, False),
            )[0]  # fmt: skip
        small, large = (batch, gradient) if ctx.transposed else (gradient, batch)
        product = flat(small).T @ windows(large, weight.shape[2], ctx.stride, ctx.padding)  # (R, k k S)
        to_weight = product.view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        return to_batch, to_weight, gradient.sum(dim=(0, 2, 3)), None, None, None


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
