"""The kernels compute the same as the PyTorch layers: exactly so for small integers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from kernel_models import (
    CASES,
    assert_outputs_close,
    build_model,
    kernel_network,
    kernel_outputs,
    layer_outputs,
    logits_and_gradients,
    sample_images,
    with_integer_weights,
)
from torch.nn import functional as F

from oddlens.models.autoencoder import Autoencoder
from oddlens.models.conv_variants import UpsampledConv2d
from oddlens.models.layers import pad_to_multiple

pytestmark = pytest.mark.usefixtures("kernels_run")


@pytest.mark.parametrize("count", [8, 5, 1])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_those_of_the_layers(name: str, count: int) -> None:
    model = with_integer_weights(build_model(name))
    batch = sample_images(model, count)
    sparse = torch.rand(batch.shape, generator=torch.Generator().manual_seed(3)) < 0.02
    logit_gradients = torch.where(sparse, sample_images(model, count) * 2 - 1, 0)
    expected, gradients = logits_and_gradients(model, batch, logit_gradients, bf16=False)
    largest = max(float(each.abs().max()) for each in [expected, *gradients])
    assert 2 <= largest <= 256, "the numbers of this test are not exact in bfloat16, or all near 0"
    for _ in range(2):  # the second time, sums must start at 0 again
        actual, other_gradients = logits_and_gradients(model, batch, logit_gradients, bf16=True)
        assert torch.equal(actual, expected)
        assert len(other_gradients) == len(gradients) == len(list(model.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(other_gradients, gradients, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_as_accurate_as_bfloat16_layers(name: str) -> None:
    model, layers = build_model(name), build_model(name)
    layers.accelerated = None
    errors: dict[Autoencoder, list[tuple[float, float]]] = {model: [], layers: []}
    for seed in range(5):  # one number that rounding moves across a maximum changes gradients a lot
        batch = torch.rand(sample_images(model, 6).shape, generator=torch.Generator().manual_seed(seed))
        expected, gradients = logits_and_gradients(model, batch, torch.ones_like(batch), bf16=False)
        for network, distances in errors.items():
            actual, other_gradients = logits_and_gradients(network, batch, torch.ones_like(batch), bf16=True)
            gradient_errors = [
                torch.dist(one, other) / other.norm() for one, other in zip(other_gradients, gradients, strict=True)
            ]
            distances.append((float(torch.dist(actual, expected) / expected.norm()), float(np.median(gradient_errors))))
    kernel_errors, layer_errors = (np.median(errors[network], axis=0) for network in (model, layers))
    assert kernel_errors[0] < 1.25 * layer_errors[0] < 0.02
    assert kernel_errors[1] < 2 * layer_errors[1] < 0.2


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("error", ["mse", "l1"])
@pytest.mark.parametrize("name", CASES)
def test_scores_maps_and_reconstructions_match_the_layers(name: str, error: str, bf16: bool) -> None:
    model = with_integer_weights(build_model(name, error=error)).eval()
    kernel_network(model).images_per_thread = 32
    batch = sample_images(model, 150)  # more than fit at once
    assert_outputs_close(kernel_outputs(model, batch, bf16=bf16), layer_outputs(model, batch))
    assert [memory.bf16 for memory in kernel_network(model).idle] == [bf16], "the kernels did not run"


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_small_batches_are_divided_between_threads(name: str, threads: int, bf16: bool) -> None:
    torch.set_num_threads(threads)
    model = with_integer_weights(build_model(name)).eval()
    for count in (0, 1, 2, 3, 9):
        batch = sample_images(model, 9)[9 - count :]
        assert_outputs_close(kernel_outputs(model, batch, bf16=bf16), layer_outputs(model, batch))
        assert [memory.bf16 for memory in kernel_network(model).idle] == [bf16], (
            "the memory of smaller batches was not released"
        )


@pytest.mark.parametrize("name", CASES)
def test_scoring_in_float32_has_its_precision(name: str) -> None:
    model = build_model(name).eval()
    batch = torch.rand(sample_images(model, 5).shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        rebuilt = kernel_network(model).errors(pad_to_multiple(batch, model.multiple), "mse", bf16=False)[0]
    expected = copy.deepcopy(model).double()(batch.double()).reconstruction
    assert expected is not None
    actual = rebuilt[:, :, : model.spec.height, : model.spec.width]
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bf16", [True, False])
def test_the_kernels_respect_the_region_of_interest(bf16: bool) -> None:
    model = with_integer_weights(build_model("strided")).eval()
    model.set_roi(np.arange(24 * 32).reshape(24, 32) % 5 == 0)
    batch = sample_images(model, 3)
    assert_outputs_close(kernel_outputs(model, batch, bf16=bf16), layer_outputs(model, batch))


def test_batches_of_changing_sizes_do_not_affect_each_other() -> None:
    model, other = (with_integer_weights(build_model("pooling, padded")) for _ in range(2))
    for count in (8, 5, 8, 1):
        batch = sample_images(model, 9)[-count:]
        logits, gradients = logits_and_gradients(model, batch, batch, bf16=True)
        expected, other_gradients = logits_and_gradients(other, batch, batch, bf16=False)
        assert torch.equal(logits, expected)
        assert all(torch.equal(a, b) for a, b in zip(gradients[-2:], other_gradients[-2:], strict=True))


@pytest.mark.parametrize("count", [1, 3])
def test_more_threads_than_images_change_nothing(count: int) -> None:
    torch.set_num_threads(4)
    test_logits_and_gradients_equal_those_of_the_layers("strided", count)


@pytest.mark.parametrize("pixel", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_nan_pixels_give_nan_outputs_as_in_the_layers(pixel: tuple[int, int]) -> None:
    model = with_integer_weights(build_model("pooling"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    batch = sample_images(model, 2)
    batch[0, 0, 14 + pixel[0], 14 + pixel[1]] = float("nan")
    expected = batch
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, UpsampledConv2d):
            expected = F.conv2d(F.interpolate(expected, scale_factor=2), layer.weight, layer.bias, padding=1)
        else:
            expected = layer(expected)
    assert expected.isnan().any()
    assert not expected.isnan().all()
    assert torch.equal(logits_and_gradients(model, batch, batch, bf16=True)[0].isnan(), expected.isnan())


def test_one_thread_and_two_give_the_same_logits() -> None:
    model = build_model("strided")
    batch = torch.rand(sample_images(model, 7).shape)
    two = logits_and_gradients(model, batch, batch, bf16=True)
    torch.set_num_threads(1)
    one = logits_and_gradients(model, batch, batch, bf16=True)
    assert torch.equal(one[0], two[0])
    assert all(torch.dist(a, b) <= 1e-5 * a.norm() for a, b in zip(one[1], two[1], strict=True))


def test_weights_may_have_any_memory_format() -> None:
    model, other = build_model("strided"), build_model("strided")
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = sample_images(model, 3)
    actual, expected = (logits_and_gradients(each, batch, batch, bf16=True) for each in (model, other))
    assert torch.equal(actual[0], expected[0])
    assert all(torch.equal(one, same) for one, same in zip(actual[1], expected[1], strict=True))
