"""The kernels in C compute what PyTorch's layers do: exactly, where numbers are small whole ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from native_models import (
    CASES,
    assert_alike,
    by_layers,
    learned,
    made,
    pictures,
    scores,
    two_threads,
    with_whole_numbers,
)
from torch.nn import functional as F

from oddlens.models.autoencoder import Autoencoder
from oddlens.models.conv_variants import UpsampledConv2d
from oddlens.models.layers import pad_to_multiple

__all__ = ["two_threads"]  # for every test here


@pytest.mark.parametrize("count", [8, 5, 1])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_are_those_of_the_layers_to_the_last_bit(name: str, count: int) -> None:
    model = with_whole_numbers(made(name))
    batch = pictures(model, count)
    few = torch.rand(batch.shape, generator=torch.Generator().manual_seed(3)) < 0.02
    slopes = torch.where(few, pictures(model, count) * 2 - 1, 0)
    want, gradients = learned(model, batch, slopes, bf16=False)
    largest = max(float(each.abs().max()) for each in [want, *gradients])
    assert 2 <= largest <= 256, "the test's numbers are not exact in bfloat16, or nothing"
    for _ in range(2):  # sums begin at 0 again
        found, others = learned(model, batch, slopes, bf16=True)
        assert torch.equal(found, want)
        assert len(others) == len(gradients) == len(list(model.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(others, gradients, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_usual_numbers_come_as_close_as_bfloat16_does(name: str) -> None:
    model, layers = made(name), made(name)
    layers.native = None
    errors: dict[Autoencoder, list[tuple[float, float]]] = {model: [], layers: []}
    for seed in range(5):  # one number that rounding moves to the other side of a maximum changes gradients a lot
        batch = torch.rand(pictures(model, 6).shape, generator=torch.Generator().manual_seed(seed))
        want, gradients = learned(model, batch, torch.ones_like(batch), bf16=False)
        for each, far in errors.items():
            found, others = learned(each, batch, torch.ones_like(batch), bf16=True)
            slopes = [torch.dist(one, other) / other.norm() for one, other in zip(others, gradients, strict=True)]
            far.append((float(torch.dist(found, want) / want.norm()), float(np.median(slopes))))
    ours, theirs = (np.median(errors[each], axis=0) for each in (model, layers))
    assert ours[0] < 1.25 * theirs[0] < 0.02
    assert ours[1] < 2 * theirs[1] < 0.2


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("error", ["mse", "l1"])
@pytest.mark.parametrize("name", CASES)
def test_scores_maps_and_reconstructions_are_those_of_the_layers(name: str, error: str, bf16: bool) -> None:
    model = with_whole_numbers(made(name, error=error)).eval()
    assert model.native is not None
    model.native.at_once = 32
    batch = pictures(model, 150)  # more than are taken at once
    assert_alike(scores(model, batch, bf16=bf16), by_layers(model, batch))
    assert [memory.paired for memory in model.native.idle] == [bf16], "the kernels were not asked"


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_few_pictures_are_divided_between_threads(name: str, threads: int, bf16: bool) -> None:
    torch.set_num_threads(threads)
    model = with_whole_numbers(made(name)).eval()
    for count in (0, 1, 2, 3, 9):
        batch = pictures(model, 9)[9 - count :]
        assert_alike(scores(model, batch, bf16=bf16), by_layers(model, batch))
        assert model.native is not None
        assert [memory.paired for memory in model.native.idle] == [bf16], "memory of smaller batches is kept"


@pytest.mark.parametrize("name", CASES)
def test_float32_is_float32(name: str) -> None:
    model = made(name).eval()
    batch = torch.rand(pictures(model, 5).shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert model.native is not None
        rebuilt = model.native.errors(pad_to_multiple(batch, model.multiple), "mse", bf16=False)[0]
    want = copy.deepcopy(model).double()(batch.double()).reconstruction
    assert want is not None
    found = rebuilt[:, :, : model.spec.height, : model.spec.width]
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_region_of_interest_counts_as_ever(bf16: bool) -> None:
    model = with_whole_numbers(made("strided")).eval()
    model.set_roi(np.arange(24 * 32).reshape(24, 32) % 5 == 0)
    batch = pictures(model, 3)
    assert_alike(scores(model, batch, bf16=bf16), by_layers(model, batch))


def test_batches_of_changing_sizes_do_not_see_each_other() -> None:
    model, other = (with_whole_numbers(made("pooling, padded")) for _ in range(2))
    for count in (8, 5, 8, 1):
        batch = pictures(model, 9)[-count:]
        logits, gradients = learned(model, batch, batch, bf16=True)
        want, others = learned(other, batch, batch, bf16=False)
        assert torch.equal(logits, want)
        assert all(torch.equal(a, b) for a, b in zip(gradients[-2:], others[-2:], strict=True))


@pytest.mark.parametrize("count", [1, 3])
def test_more_threads_than_pictures_change_nothing(count: int) -> None:
    torch.set_num_threads(4)
    test_logits_and_gradients_are_those_of_the_layers_to_the_last_bit("strided", count)


@pytest.mark.parametrize("where", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_pixel_that_is_no_number_is_not_hidden(where: tuple[int, int]) -> None:
    model = with_whole_numbers(made("pooling"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    batch = pictures(model, 2)
    batch[0, 0, 14 + where[0], 14 + where[1]] = float("nan")
    want = batch
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, UpsampledConv2d):
            want = F.conv2d(F.interpolate(want, scale_factor=2), layer.weight, layer.bias, padding=1)
        else:
            want = layer(want)
    assert want.isnan().any()
    assert not want.isnan().all()
    assert torch.equal(learned(model, batch, batch, bf16=True)[0].isnan(), want.isnan())


def test_one_thread_and_two_give_the_same_logits() -> None:
    model = made("strided")
    batch = torch.rand(pictures(model, 7).shape)
    two = learned(model, batch, batch, bf16=True)
    torch.set_num_threads(1)
    one = learned(model, batch, batch, bf16=True)
    assert torch.equal(one[0], two[0])
    assert all(torch.dist(a, b) <= 1e-5 * a.norm() for a, b in zip(one[1], two[1], strict=True))


def test_weights_may_lie_in_any_order() -> None:
    model, other = made("strided"), made("strided")
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = pictures(model, 3)
    found, want = (learned(each, batch, batch, bf16=True) for each in (model, other))
    assert torch.equal(found[0], want[0])
    assert all(torch.equal(one, same) for one, same in zip(found[1], want[1], strict=True))
