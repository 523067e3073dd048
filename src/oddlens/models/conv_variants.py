"""Convolutions in the forms that are fastest on a CPU; their weights are those of the PyTorch layers.

In bfloat16, oneDNN takes several times as long for the gradient of a convolution's weights as for the convolution. For
strided and transposed convolutions the windows can be laid out cheaply (im2col), so that in training each gradient is
one matrix product. Up-sampling followed by a convolution is one transposed convolution; with few output channels that
is computed as a 3x3 convolution. Exported files contain the forms used for scoring.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_CHANNELS = 8  # with fewer channels, im2col costs more than it saves

# Along one side: the 4 taps of the transposed convolution that equals 2x2 up-sampling and a 3-tap kernel (3, 4).
UPSAMPLING_TAPS = torch.tensor([[float(tap in (2 - pixel, 3 - pixel)) for pixel in range(4)] for tap in range(3)])
UPSAMPLING_TAPS_2D = torch.kron(UPSAMPLING_TAPS, UPSAMPLING_TAPS)  # along both sides (9, 16)

# Along one side: which tap of a transposed 4-tap kernel is which tap of a 3-tap one, for even and odd pixels (4, 2, 3).
PHASE_TAPS = torch.tensor([[[float(a == q + 3 - 2 * i) for i in range(3)] for q in range(2)] for a in range(4)])


class InputMajorLinear(nn.Linear):
    """Dense layer whose weights are stored input-major: (inputs, outputs) in memory."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight.data = self.weight.data.T.contiguous().T


class Conv2d(nn.Conv2d):
    """Convolution with a square kernel."""

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, h, w)."""
        uses_im2col = self.stride[0] > 1 and self.in_channels >= MIN_CHANNELS and trains_in_bf16(self, batch)
        if self.bias is None or not uses_im2col:
            return super().forward(batch)
        operands = to_bf16(batch, self.weight, self.bias)
        return StridedConvFunction.apply(*operands, self.stride[0], int(self.padding[0]))  # type: ignore[no-any-return, no-untyped-call]


class UpsampledConv2d(nn.Conv2d):
    """2x2 nearest-neighbour up-sampling and a padded 3x3 convolution, computed as one transposed convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        outputs, inputs = self.weight.shape[:2]
        with torch.autocast(batch.device.type, enabled=False):  # bfloat16 would be slower here
            weight = (self.weight.flatten(2) @ UPSAMPLING_TAPS_2D.to(self.weight)).view(outputs, inputs, 4, 4)
        return transposed_conv(self, batch, weight.transpose(0, 1), self.bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed 4x4 convolution with stride 2, which doubles height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, batch: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, O, 2 H, 2 W)."""
        return transposed_conv(self, batch, self.weight, self.bias)


def transposed_conv(layer: nn.Module, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution with stride 2: (N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W)."""
    if bias is not None and trains_in_bf16(layer, batch):
        return TransposedConvFunction.apply(*to_bf16(batch, weight, bias))  # type: ignore[no-any-return, no-untyped-call]
    return transposed_conv_forward(batch, weight, bias)


def transposed_conv_forward(batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Forward pass of `transposed_conv`, in the fastest form for its number of output channels."""
    if weight.shape[1] >= MIN_CHANNELS:
        return F.conv_transpose2d(batch, weight, bias, 2, 1)
    return transposed_conv_by_phases(batch, weight, bias)


def trains_in_bf16(layer: nn.Module, batch: Tensor) -> bool:
    """Whether this is a training step in bfloat16 on a CPU."""
    return layer.training and autocasts_to_bf16(batch)


def autocasts_to_bf16(batch: Tensor) -> bool:
    """Whether autocast to bfloat16 is enabled and the batch is on a CPU."""
    on_cpu = batch.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return on_cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16


def to_bf16(batch: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cast to bfloat16, with batch and weight channels last."""
    pixels, weights = (tensor.to(torch.bfloat16, memory_format=torch.channels_last) for tensor in (batch, weight))
    return pixels, weights, bias.to(torch.bfloat16)


class StridedConvFunction(torch.autograd.Function):
    """Convolution with a square kernel, whose weight gradient is one matrix product."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
        """(N, C, H, W), (O, C, k, k), (O,) -> (N, O, h, w)."""
        ctx.save_for_backward(batch, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(batch, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of batch (None where it needs none), weight and bias."""
        (batch, weight), batch_gradient = ctx.saved_tensors, None
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            batch_gradient = torch.ops.aten.convolution_backward(
                gradient, batch, weight, None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1,
                (True, False, False),
            )[0]  # fmt: skip
        outputs, inputs, side, _ = weight.shape
        product = flatten_pixels(gradient).T @ im2col(batch, side, ctx.stride, ctx.padding)  # (O, k k C)
        return (
            batch_gradient,
            product.view(outputs, side, side, inputs).permute(0, 3, 1, 2),
            flatten_pixels(gradient).sum(0),
            None,
            None,
        )


class TransposedConvFunction(torch.autograd.Function):
    """Transposed convolution with a 4x4 kernel and stride 2, whose gradients are matrix products."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W)."""
        ctx.save_for_backward(batch, weight)
        output = transposed_conv_forward(batch, weight, bias)
        return output.clone() if output._is_view() else output  # the next layer may work in place, which a view forbids

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of batch, weight and bias."""
        batch, weight = ctx.saved_tensors
        inputs, outputs = weight.shape[:2]
        columns = im2col(gradients[0], 4, 2, 1)  # (N H W, 16 O)
        weight_gradient = (flatten_pixels(batch).T @ columns).view(inputs, 4, 4, outputs).permute(0, 3, 1, 2)
        batch_gradient = columns @ weight.permute(2, 3, 1, 0).reshape(-1, inputs)
        count, _, height, width = batch.shape
        return (
            batch_gradient.view(count, height, width, inputs).permute(0, 3, 1, 2),
            weight_gradient,
            gradients[0].sum((0, 2, 3)),
        )


def transposed_conv_by_phases(batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution as a 3x3 convolution: (N, C, H, W), (C, O, 4, 4), (O,) -> (N, O, 2 H, 2 W).

    The four phases (even and odd rows and columns) are channels of its output. With few output channels this takes at
    most half as long as a transposed convolution.
    """
    outputs = weight.shape[1]
    phases = torch.einsum("coab,aqi,brj->qrocij", weight, *[PHASE_TAPS.to(weight)] * 2).flatten(0, 2)
    repeated = None if bias is None else bias.repeat(4)
    stacked = F.conv2d(batch, phases.contiguous(memory_format=torch.channels_last), repeated, padding=1)
    count, _, height, width = stacked.shape  # channels last: the phases are adjacent in memory
    pixels = stacked.permute(0, 2, 3, 1).reshape(count, height, width, 2, 2, outputs).transpose(2, 3)
    return pixels.reshape(count, 2 * height, 2 * width, outputs).permute(0, 3, 1, 2)


def flatten_pixels(batch: Tensor) -> Tensor:
    """(N, C, H, W) -> (N H W, C); a view if the batch is channels last."""
    return batch.permute(0, 2, 3, 1).reshape(-1, batch.shape[1])


def im2col(batch: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """(N, C, H, W) -> (N h w, side * side * C): the window of each output position of a convolution."""
    padded = F.pad(batch.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    count, height, width, channels = padded.shape
    rows, columns = ((n - side) // stride + 1 for n in (height, width))
    size = count * rows * columns, side * side * channels
    step, row, window_row = stride * channels, width * channels, side * channels
    items_per_word = 8 // batch.element_size()
    # Copying 64-bit words is faster than copying bfloat16 numbers.
    if not any(n % items_per_word for n in (step, row, window_row)):
        padded = padded.view(count, height, row).view(torch.int64)
        step, row, window_row = step // items_per_word, row // items_per_word, window_row // items_per_word
    patches = padded.as_strided((count, rows, columns, side, window_row), (height * row, stride * row, step, row, 1))
    return patches.reshape(count * rows * columns, -1).view(batch.dtype).view(size)
