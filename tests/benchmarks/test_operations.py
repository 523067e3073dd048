"""Tests of the operation counts."""

from __future__ import annotations

import operations
import pytest
import torch
from operations import Layer
from torch.utils.flop_counter import FlopCounterMode

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings


@pytest.mark.parametrize(
    ("layer", "module", "shape"),
    [
        (Layer("convolution", 3, 8, 10, 12, 3, 2), torch.nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 10, 12)),
        (Layer("convolution", 8, 4, 10, 12, 3), torch.nn.Conv2d(8, 4, 3, 1, 1), (1, 8, 10, 12)),
        (Layer("transposed", 8, 4, 5, 6, 4, 2), torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), (1, 8, 5, 6)),
        (Layer("linear", 32, 10), torch.nn.Linear(32, 10), (1, 32)),
    ],
    ids=str,
)
def test_layer_operations_agree_with_pytorch(layer: Layer, module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(shape))
    assert layer.operations == counter.get_total_flops()


def test_strided_autoencoder_has_a_linear_bottleneck() -> None:
    layers = operations.layers(AutoencoderSettings(), InputSpec(height=32, width=32, channels=3, value_max=255))
    assert [layer.kind for layer in layers] == ["convolution"] * 3 + ["linear"] * 2 + ["transposed"] * 3
    assert layers[3].before == layers[4].after == 128 * 4 * 4


def test_pooling_autoencoder_ends_at_full_size_with_one_channel() -> None:
    settings = AutoencoderSettings(architecture="pooling", widths=(32, 64))
    layers = operations.layers(settings, InputSpec(height=28, width=28, channels=1, value_max=255))
    sizes = [(layer.before, layer.after, layer.height) for layer in layers]
    assert sizes == [(1, 32, 28), (32, 64, 14), (64, 64, 7), (64, 32, 14), (32, 1, 28)]


def test_training_takes_three_times_scoring_except_for_the_first_layer() -> None:
    network = [Layer("linear", 4, 2), Layer("linear", 2, 4)]
    assert operations.total(operations.scoring(network)) == 32
    assert [count for _, count in operations.training(network)] == [32, 48]
