"""The kernels in C compute what PyTorch's layers do: exactly, where numbers are small whole ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from oddlens import models
from oddlens.config import AutoencoderSettings, InputSpec
from oddlens.models.autoencoder import Autoencoder

CASES = {
    "strided": (AutoencoderSettings(widths=(16, 32, 48), latent_dim=16), (24, 32, 3)),
    "strided, wide": (AutoencoderSettings(widths=(32, 64), latent_dim=128), (16, 16, 1)),
    "strided, padded": (AutoencoderSettings(widths=(16, 32), latent_dim=32), (18, 21, 3)),
    "one place at the bottom": (AutoencoderSettings(widths=(16, 16, 32), latent_dim=32), (8, 8, 1)),
    "pooling": (AutoencoderSettings(architecture="pooling", widths=(32, 64)), (28, 28, 1)),
    "pooling, padded": (AutoencoderSettings(architecture="pooling", widths=(16, 32, 16)), (18, 30, 3)),
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made(name: str, **changes: object) -> Autoencoder:
    """A model of a case, with the memory layout that it has in training."""
    settings, (height, width, channels) = CASES[name]
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels})
    model = models.build(settings.model_copy(update=changes), spec, seed=0)
    assert isinstance(model, Autoencoder)
    if model.compiled is None:
        pytest.skip("the kernels need a C compiler and a processor with bfloat16 products and no matrix unit")
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def with_whole_numbers(model: Autoencoder) -> Autoencoder:
    """Few weights, of -1 and 1: what they make of few whole numbers is whole and small, and so exact in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            chosen = torch.rand(parameter.shape, generator=generator) < 1.5 / fan
            parameter.copy_(torch.randint(0, 2, parameter.shape, generator=generator).mul(2).sub(1) * chosen)
    return model


def pictures(model: Autoencoder, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (count, model.spec.height, model.spec.width, model.spec.channels)
    return torch.randint(0, 2, shape, generator=generator).float().permute(0, 3, 1, 2)


def learned(model: Autoencoder, batch: Tensor, slopes: Tensor, *, bf16: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of all parameters."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model.learned_logits(batch)
    torch.autograd.backward(logits, slopes)
    return logits.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


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
    model = made(name)
    batch = torch.rand(pictures(model, 6).shape, generator=torch.Generator().manual_seed(0))
    want, gradients = learned(model, batch, torch.ones_like(batch), bf16=False)
    found, others = learned(model, batch, torch.ones_like(batch), bf16=True)
    assert torch.dist(found, want) < 0.02 * want.norm()
    close = [torch.dist(one, other) / other.norm() for one, other in zip(others, gradients, strict=True)]
    assert max(close) < 0.2
    assert float(np.median(close)) < 0.05


def scores(model: Autoencoder, batch: Tensor, *, bf16: bool) -> list[Tensor]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        scored = model(batch)
    assert scored.anomaly_map is not None
    assert scored.reconstruction is not None
    return [scored.anomaly_score, scored.anomaly_map, scored.reconstruction]


@pytest.mark.parametrize("error", ["mse", "l1"])
@pytest.mark.parametrize("name", CASES)
def test_scores_maps_and_reconstructions_are_those_of_the_layers(name: str, error: str) -> None:
    model = with_whole_numbers(made(name, error=error)).eval()
    batch = pictures(model, 150)  # more than are taken at once
    assert model.compiled is not None
    for one, other in zip(scores(model, batch, bf16=True), scores(model, batch, bf16=False), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)
    assert model.compiled.idle, "the kernels were not asked"


def test_a_region_of_interest_counts_as_ever() -> None:
    model = with_whole_numbers(made("strided")).eval()
    model.set_roi(np.arange(24 * 32).reshape(24, 32) % 5 == 0)
    batch = pictures(model, 3)
    for one, other in zip(scores(model, batch, bf16=True), scores(model, batch, bf16=False), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)


def test_weights_that_change_are_packed_anew() -> None:
    model = with_whole_numbers(made("strided")).eval()
    batch = pictures(model, 2)
    before = scores(model, batch, bf16=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    after = scores(model, batch, bf16=True)
    assert not torch.equal(before[2], after[2])
    torch.testing.assert_close(after[2], scores(model, batch, bf16=False)[2], rtol=2e-6, atol=2e-7)


def test_a_number_that_is_none_is_not_hidden() -> None:
    model = made("pooling")
    batch = pictures(model, 2)
    with torch.no_grad():
        next(model.decoder.parameters())[0] = float("nan")
    assert learned(model, batch, batch, bf16=True)[0].isnan().any()


def test_one_thread_and_two_give_the_same_logits() -> None:
    model = made("strided")
    batch = torch.rand(pictures(model, 7).shape)
    two = learned(model, batch, batch, bf16=True)
    torch.set_num_threads(1)
    one = learned(model, batch, batch, bf16=True)
    assert torch.equal(one[0], two[0])
    assert all(torch.dist(a, b) <= 1e-5 * a.norm() for a, b in zip(one[1], two[1], strict=True))


def test_memory_is_let_go_when_learning_ends_and_copies_have_none() -> None:
    model = made("strided")
    assert model.compiled is not None
    learned(model, pictures(model, 2), pictures(model, 2), bf16=True)
    assert model.compiled.idle
    copied = copy.deepcopy(model)
    assert copied.compiled is not None
    assert not copied.compiled.idle
    with torch.no_grad():
        next(copied.decoder.parameters()).zero_()
    assert not torch.equal(
        scores(copied, pictures(model, 2), bf16=True)[2], scores(model, pictures(model, 2), bf16=True)[2]
    )
    model.eval()
    assert not model.compiled.idle


@pytest.mark.parametrize(
    "changes",
    [{"widths": (12, 32)}, {"widths": (16, 24), "architecture": "pooling"}, {"latent_dim": 100}],
    ids=["widths", "pooling", "latent"],
)
def test_layers_that_the_kernels_do_not_know_stay_pytorchs(changes: dict[str, object]) -> None:
    made("strided")  # skips where there are no kernels
    settings = AutoencoderSettings.model_validate({"widths": (16, 32), "latent_dim": 16} | changes)
    model = models.build(settings, InputSpec(height=16, width=16, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.compiled is None
    batch = torch.rand(2, 3, 16, 16)
    assert learned(model, batch, batch, bf16=True)[0].isfinite().all()


def test_without_kernels_the_layers_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.models.compiled.library", lambda: None)
    model = models.build(CASES["strided"][0], InputSpec(height=24, width=32, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.compiled is None
    batch = pictures(with_whole_numbers(model), 3)
    want, found = (learned(model, batch, batch, bf16=bf16)[0] for bf16 in (False, True))
    assert torch.equal(found, want)
