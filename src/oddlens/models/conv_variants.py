"""Convolutions in the form that is fastest on a CPU; their weights are always PyTorch's own.

oneDNN's bfloat16 gradients of a convolution's weights take several times as long as the convolution. Where a
convolution strides, or its reverse doubles sides, what each place looks at is laid out cheaply, and then gradients are
one product each: in steps of training. Up-sampling and the convolution behind it are one transposed convolution, and
that into a few channels is a 3x3 convolution. Exported files have the forms of scoring.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # channels below which laying out costs more than it saves

# What a 3x3 kernel behind 2x2 up-sampling becomes along one side: a transposed convolution's, of four places (3, 4).
UPSAMPLED = torch.tensor([[float(place in (2 - pixel, 3 - pixel)) for pixel in range(4)] for place in range(3)])
UPSAMPLED_BOTH = torch.kron(UPSAMPLED, UPSAMPLED)  # along both sides (9, 16)

# Which place of a doubling 4x4 kernel each of a 3x3 one is, along one side, for even and for odd pixels (4, 2, 3).
PHASES = torch.tensor([[[float(a == q + 3 - 2 * i) for i in range(3)] for q in range(2)] for a in range(4)])


class InputsFirst(nn.Linear):
    """PyTorch's dense layer, with weights that have the inputs first in memory."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after)
        self.weight.data = self.weight.data.T.contiguous().T


class Conv2d(nn.Conv2d):
    """PyTorch's convolution, with a square kernel."""

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        if self.stride[0] == 1 or self.in_channels < FEW or not learns_in_bf16(self, batch):
            return super().forward(batch)
        numbers = in_bf16(batch, self.weight, self.bias)
        return Strided.apply(*numbers, self.stride[0], int(self.padding[0]))  # type: ignore[no-any-return, no-untyped-call]


class UpsampledConv2d(nn.Conv2d):
    """2x2 up-sampling to the nearest, and a 3x3 convolution that keeps sides: together a transposed convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1)

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        outputs, inputs = self.weight.shape[:2]
        with torch.autocast(batch.device.type, enabled=False):  # where it would take longer
            weight = (self.weight.flatten(2) @ UPSAMPLED_BOTH.to(self.weight)).view(outputs, inputs, 4, 4)
        return doubled(self, batch, weight.transpose(0, 1), self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed 4x4 convolution that doubles sides."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 4, stride=2, padding=1)

    def forward(self, batch: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        return doubled(self, batch, self.weight, self.bias)


def doubled(layer: nn.Module, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A transposed convolution: (N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W)."""
    if learns_in_bf16(layer, batch):
        return Doubling.apply(*in_bf16(batch, weight, bias))  # type: ignore[no-any-return, no-untyped-call]
    return spread(batch, weight, bias)


def spread(batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, forward, in the fastest form."""
    if weight.shape[1] >= FEW:
        return F.conv_transpose2d(batch, weight, bias, 2, 1)
    return in_phases(batch, weight, bias)


def learns_in_bf16(layer: nn.Module, batch: Tensor) -> bool:
    """Whether this is a step of training in bfloat16 on a CPU."""
    return layer.training and multiplies_in_bf16(batch)


def multiplies_in_bf16(batch: Tensor) -> bool:
    """Whether bfloat16 was asked for, on a CPU."""
    on_cpu = batch.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return on_cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16


def in_bf16(batch: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same numbers in bfloat16, channels last."""
    assert bias is not None  # noqa: S101 - the layers are made with one
    pixels, weights = (each.to(torch.bfloat16, memory_format=torch.channels_last) for each in (batch, weight))
    return pixels, weights, bias.to(torch.bfloat16)


class Strided(torch.autograd.Function):
    """A convolution with a square kernel."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        """(N, C, H, W), (O, C, k, k), (O,) -> (N, O, h, w)."""
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(batch, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the batch, where it needs one, of weight and bias."""
        (batch, weight), to_batch = ctx.saved_tensors, None
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            to_batch = torch.ops.aten.convolution_backward(
                gradient, batch, weight, None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1,
                (True, False, False),
            )[0]  # fmt: skip
        outputs, inputs, side, _ = weight.shape
        product = flat(gradient).T @ windows(batch, side, ctx.stride, ctx.padding)  # (O, k k C)
        return (
            to_batch,
            product.view(outputs, side, side, inputs).permute(0, 3, 1, 2),
            flat(gradient).sum(0),
            None,
            None,
        )


class Doubling(torch.autograd.Function):
    """A transposed convolution with a 4x4 kernel that doubles sides."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W)."""
        ctx.save_for_backward(batch, weight)
        found = spread(batch, weight, bias)
        return found.clone() if found._is_view() else found  # a view must not be changed in place by what follows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of batch, weight and bias."""
        batch, weight = ctx.saved_tensors
        inputs, outputs = weight.shape[:2]
        seen = windows(gradients[0], 4, 2, 1)  # (N H W, 16 O)
        to_weight = (flat(batch).T @ seen).view(inputs, 4, 4, outputs).permute(0, 3, 1, 2)
        to_batch = seen @ weight.permute(2, 3, 1, 0).reshape(-1, inputs)
        count, _, height, width = batch.shape
        return to_batch.view(count, height, width, inputs).permute(0, 3, 1, 2), to_weight, gradients[0].sum((0, 2, 3))


def in_phases(batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W): even and odd pixels as channels of a 3x3 convolution.

    Into a few channels that takes half as long as a transposed convolution, or less.
    """
    outputs = weight.shape[1]
    phases = torch.einsum("coab,aqi,brj->qrocij", weight, *[PHASES.to(weight)] * 2).flatten(0, 2)
    repeated = None if bias is None else bias.repeat(4)
    found = F.conv2d(batch, phases.contiguous(memory_format=torch.channels_last), repeated, padding=1)
    count, _, height, width = found.shape  # channels last: the phases lie beside each other
    pixels = found.permute(0, 2, 3, 1).reshape(count, height, width, 2, 2, outputs).transpose(2, 3)
    return pixels.reshape(count, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


def flat(batch: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C); channels last, the same memory."""
    return batch.permute(0, 2, 3, 1).reshape(-1, batch.shape[1])


def windows(batch: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) -> (N h w, side * side * C): what each output place of a convolution looks at."""
    around = F.pad(batch.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    count, height, width, channels = around.shape
    down, across = ((n - side) // stride + 1 for n in (height, width))
    size = count * down * across, side * side * channels
    step, row, run = stride * channels, width * channels, side * channels
    many = 8 // batch.element_size()
    if not any(n % many for n in (step, row, run)):  # fewer and larger pieces are copied faster
        around = around.view(count, height, row).view(torch.int64)
        step, row, run = step // many, row // many, run // many
    laid_out = around.as_strided((count, down, across, side, run), (height * row, stride * row, step, row, 1))
    return laid_out.reshape(count * down * across, -1).view(batch.dtype).view(size)
