"""Tests of the roofline benchmark."""

from __future__ import annotations

import pytest
import roofline
import torch
from roofline import Layer
from torch.utils.flop_counter import FlopCounterMode

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings, DictionarySettings
from oddlens.errors import OddlensError


def test_seconds_are_those_of_one_call() -> None:
    calls = []
    took = roofline.seconds(lambda: calls.append(torch.ones(10)))
    assert 0 < took < roofline.MIN_SECONDS
    assert len(calls) > roofline.TRIES


def test_convolutions_are_measured_in_both_layouts_and_as_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "MIN_SECONDS", 1e-4)
    rates = roofline.rates(Layer("convolution", 2, 3, 6, 6, 3), torch.float32, 4)
    assert list(rates) == ["product", "torch.contiguous_format", "torch.channels_last"]
    assert all(rate > 0 for rate in rates.values())
    assert len(roofline.rates(Layer("linear", 4, 5), torch.float32, 4)) == 1


def test_row_relates_a_step_to_its_best_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("linear", 10, 10)  # 200 operations
    monkeypatch.setattr(roofline, "best_rate", lambda *arguments: 4000.0)
    step = roofline.Step("recipe", "score", [(layer, layer.operations)], 10, 1.0, "fp32")
    row = roofline.row(step)
    assert row[8] == "**50%**"
    assert row[10] == "50%"


def test_other_families_are_rejected() -> None:
    spec = InputSpec(height=8, width=8, channels=1, value_max=255)
    with pytest.raises(OddlensError, match="autoencoders only, not for dictionary"):
        roofline.layers(DictionarySettings(), spec)


@pytest.mark.parametrize(
    ("layer", "module", "shape"),
    [
        (Layer("convolution", 3, 8, 10, 12, 3, 2), torch.nn.Conv2d(3, 8, 3, 2, 1), (1, 3, 10, 12)),
        (Layer("convolution", 8, 4, 10, 12, 3), torch.nn.Conv2d(8, 4, 3, 1, 1), (1, 8, 10, 12)),
        (Layer("transposed", 8, 4, 5, 6, 4, 2), torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), (1, 8, 5, 6)),
        (Layer("linear", 32, 10), torch.nn.Linear(32, 10), (1, 32)),
    ],
    ids=lambda value: value.kind if isinstance(value, Layer) else None,
)
def test_layer_operations_agree_with_pytorch(layer: Layer, module: torch.nn.Module, shape: tuple[int, ...]) -> None:
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(shape))
    assert layer.operations == counter.get_total_flops()


def test_strided_autoencoder_has_a_linear_bottleneck() -> None:
    layers = roofline.layers(AutoencoderSettings(), InputSpec(height=32, width=32, channels=3, value_max=255))
    assert [layer.kind for layer in layers] == ["convolution"] * 3 + ["linear"] * 2 + ["transposed"] * 3
    assert layers[3].before == layers[4].after == 128 * 4 * 4


def test_pooling_autoencoder_ends_at_full_size_with_one_channel() -> None:
    settings = AutoencoderSettings(architecture="pooling", widths=(32, 64))
    layers = roofline.layers(settings, InputSpec(height=28, width=28, channels=1, value_max=255))
    sizes = [(layer.before, layer.after, layer.height) for layer in layers]
    assert sizes == [(1, 32, 28), (32, 64, 14), (64, 64, 7), (64, 32, 14), (32, 1, 28)]


def test_training_takes_three_times_scoring_except_for_the_first_layer() -> None:
    network = [Layer("linear", 4, 2), Layer("linear", 2, 4)]
    assert roofline.total(roofline.scoring(network)) == 32
    assert [count for _, count in roofline.training(network)] == [32, 48]
