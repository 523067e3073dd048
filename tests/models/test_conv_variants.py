"""Convolutions in another form: the same numbers, and the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.conv_variants import Conv2d, ConvTranspose2d, UpsampledConv2d, in_phases, windows

Plain = Callable[[Tensor, nn.Module], Tensor]


def convolution(batch: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(batch, layer.weight, layer.bias, layer.stride, layer.padding)


def transposed(batch: Tensor, layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.ConvTranspose2d)
    return F.conv_transpose2d(batch, layer.weight, layer.bias, stride=2, padding=1)


def upsampled(batch: Tensor, layer: nn.Module) -> Tensor:
    return convolution(batch.repeat_interleave(2, 2).repeat_interleave(2, 3), layer)


CASES: dict[str, tuple[Callable[[], nn.Module], Plain]] = {
    "strided": (lambda: Conv2d(8, 7, 3, stride=2, padding=1), convolution),
    "of colours": (lambda: Conv2d(3, 7, 3, stride=2, padding=1), convolution),
    "unstrided": (lambda: Conv2d(8, 7, 3, padding=1), convolution),
    "transposed": (lambda: ConvTranspose2d(5, 9), transposed),
    "transposed to colours": (lambda: ConvTranspose2d(5, 3), transposed),
    "up-sampled": (lambda: UpsampledConv2d(5, 9), upsampled),
    "up-sampled to grey": (lambda: UpsampledConv2d(6, 1), upsampled),
}


def made(name: str) -> tuple[nn.Module, Plain, Tensor]:
    torch.manual_seed(0)
    layer, plain = CASES[name][0]().train(), CASES[name][1]
    weight, _ = layer.parameters()
    channels = weight.shape[0] if isinstance(layer, nn.ConvTranspose2d) else weight.shape[1]
    return layer, plain, torch.randn(3, channels, 9, 6, requires_grad=True)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_plain_form(name: str) -> None:
    layer, plain, batch = made(name)
    torch.testing.assert_close(layer(batch), plain(batch, layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_in_bfloat16_are_those_of_the_plain_form(name: str, training: bool) -> None:
    layer, plain, batch = made(name)
    layer.train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = layer(batch)
    right = plain(batch, layer).detach()
    assert found.dtype == torch.bfloat16
    assert found.shape == right.shape
    assert float((right - found).abs().max()) < 0.02 * float(right.abs().max())


def test_even_and_odd_pixels_apart_are_a_transposed_convolution() -> None:
    layer, plain, batch = made("transposed to colours")
    torch.testing.assert_close(in_phases(batch, *layer.parameters()), plain(batch, layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_bfloat16_are_those_of_the_plain_form(name: str) -> None:
    layer, plain, batch = made(name)
    inputs = (batch, *layer.parameters())
    right = plain(batch, layer)
    gradient = torch.randn_like(right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(batch)
    assert found.dtype == torch.bfloat16
    for expected, mine in zip(
        torch.autograd.grad(right, inputs, gradient),
        torch.autograd.grad(found, inputs, gradient.bfloat16()),
        strict=True,
    ):
        assert float((expected - mine).abs().max()) < 0.01 * float(expected.abs().max())


def test_a_batch_that_needs_no_gradient_gets_none() -> None:
    layer, plain, batch = made("strided")
    still = batch.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(still).sum().backward()
    weight, _ = layer.parameters()
    (expected,) = torch.autograd.grad(plain(still, layer).sum(), (weight,))
    assert weight.grad is not None
    assert float((expected - weight.grad).abs().max()) < 0.01 * float(expected.abs().max())


def test_windows_are_what_an_output_place_looks_at() -> None:
    batch = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    found = windows(batch, 3, 2, 1)
    expected = F.unfold(batch, 3, padding=1, stride=2).view(2, 3, 9, 4).permute(0, 3, 2, 1).reshape(8, 27)
    assert torch.equal(found, expected)
