"""Convolution variants have the outputs and gradients of the plain convolutions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.conv_variants import Conv2d, ConvTranspose2d, UpsampledConv2d, im2col, transposed_conv_by_phases

Reference = Callable[[Tensor, nn.Module], Tensor]


def convolution(batch: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(batch, layer.weight, layer.bias, layer.stride, layer.padding)


def transposed(batch: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.ConvTranspose2d)
    return F.conv_transpose2d(batch, layer.weight, layer.bias, stride=2, padding=1)


def upsampled(batch: Tensor, layer: nn.Module) -> Tensor:
    return convolution(batch.repeat_interleave(2, 2).repeat_interleave(2, 3), layer)


CASES: dict[str, tuple[Callable[[], nn.Module], Reference]] = {
    "strided": (lambda: Conv2d(8, 7, 3, stride=2, padding=1), convolution),
    "of colours": (lambda: Conv2d(3, 7, 3, stride=2, padding=1), convolution),
    "unstrided": (lambda: Conv2d(8, 7, 3, padding=1), convolution),
    "transposed": (lambda: ConvTranspose2d(5, 9), transposed),
    "transposed to colours": (lambda: ConvTranspose2d(5, 3), transposed),
    "up-sampled": (lambda: UpsampledConv2d(5, 9), upsampled),
    "up-sampled to grey": (lambda: UpsampledConv2d(6, 1), upsampled),
}


def build_case(name: str) -> tuple[nn.Module, Reference, Tensor]:
    torch.manual_seed(0)
    layer, reference = CASES[name][0]().train(), CASES[name][1]
    weight, _ = layer.parameters()
    channels = weight.shape[0] if isinstance(layer, nn.ConvTranspose2d) else weight.shape[1]
    return layer, reference, torch.randn(3, channels, 9, 6, requires_grad=True)


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_those_of_the_reference(name: str) -> None:
    layer, reference, batch = build_case(name)
    torch.testing.assert_close(layer(batch), reference(batch, layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_outputs_in_bfloat16_are_close_to_the_reference(name: str, training: bool) -> None:
    layer, reference, batch = build_case(name)
    layer.train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        actual = layer(batch)
    expected = reference(batch, layer).detach()
    assert actual.dtype == torch.bfloat16
    assert actual.shape == expected.shape
    assert float((expected - actual).abs().max()) < 0.02 * float(expected.abs().max())


def test_the_phases_are_a_transposed_convolution() -> None:
    layer, reference, batch = build_case("transposed to colours")
    torch.testing.assert_close(
        transposed_conv_by_phases(batch, *layer.parameters()), reference(batch, layer), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_bfloat16_are_close_to_the_reference(name: str) -> None:
    layer, reference, batch = build_case(name)
    inputs = (batch, *layer.parameters())
    output = reference(batch, layer)
    gradient = torch.randn_like(output)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = layer(batch)
    assert actual.dtype == torch.bfloat16
    for expected, computed in zip(
        torch.autograd.grad(output, inputs, gradient),
        torch.autograd.grad(actual, inputs, gradient.bfloat16()),
        strict=True,
    ):
        assert float((expected - computed).abs().max()) < 0.01 * float(expected.abs().max())


def test_batches_without_gradients_are_supported() -> None:
    layer, reference, batch = build_case("strided")
    inputs = batch.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(inputs).sum().backward()
    weight, _ = layer.parameters()
    (expected,) = torch.autograd.grad(reference(inputs, layer).sum(), (weight,))
    assert weight.grad is not None
    assert float((expected - weight.grad).abs().max()) < 0.01 * float(expected.abs().max())


def test_constants_have_data_even_if_the_module_is_first_imported_for_shapes_alone() -> None:
    code = """
import sys
from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.models.registry import tensor_shapes
assert "oddlens.models.conv_variants" not in sys.modules
tensor_shapes(AutoencoderSettings(), InputSpec(height=32, width=32, channels=1))  # builds on the meta device
from oddlens.models import conv_variants
assert conv_variants.UPSAMPLING_TAPS_2D.sum() == 36
assert conv_variants.PHASE_TAPS.sum() == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_im2col_equals_unfold() -> None:
    batch = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    actual = im2col(batch, 3, 2, 1)
    expected = F.unfold(batch, 3, padding=1, stride=2).view(2, 3, 9, 4).permute(0, 3, 2, 1).reshape(8, 27)
    assert torch.equal(actual, expected)
