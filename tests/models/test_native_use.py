"""When the kernels in C are asked, and what they keep between two calls."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from native_models import (
    CASES,
    by_layers,
    learned,
    made,
    pictures,
    scores,
    two_threads,
    with_whole_numbers,
)
from torch import Tensor

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models import registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.training.loop import train
from oddlens.training.optim import Adam

__all__ = ["two_threads"]  # for every test here


def test_precisions_in_turn_do_not_see_each_other() -> None:
    model = made("strided").eval()
    batch = torch.rand(pictures(model, 5).shape)
    first, again = ([scores(model, batch, bf16=bf16)[2] for bf16 in (True, False)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("how", ["in place", "optimiser"])
def test_weights_that_change_are_packed_anew(how: str, bf16: bool) -> None:
    model = with_whole_numbers(made("strided")).eval()
    batch = pictures(model, 2)
    before = scores(model, batch, bf16=bf16)
    if how == "optimiser":
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        Adam(model.parameters(), lr=1.0).step()
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.neg_()
    after = scores(model, batch, bf16=bf16)
    assert not torch.equal(before[2], after[2])
    torch.testing.assert_close(after[2], by_layers(model, batch)[2], rtol=1e-3, atol=1e-3)


def test_weights_made_for_inference_alone_are_packed_each_time() -> None:
    with torch.inference_mode():
        model = with_whole_numbers(made("strided")).eval()
        batch = pictures(model, 2)
        before = scores(model, batch, bf16=True)
        for parameter in model.parameters():
            parameter.neg_()
        after = scores(model, batch, bf16=True)
    assert not torch.equal(before[2], after[2])


def test_two_steps_at_once_keep_apart() -> None:
    model = made("strided")
    first, second = (torch.rand(pictures(model, 4).shape) for _ in range(2))
    apart = [learned(model, batch, batch, bf16=True)[1] for batch in (first, second)]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = [model.learned_logits(batch) for batch in (first, second, first)]  # the third is never used
    torch.autograd.backward(logits[1], second)
    torch.autograd.backward(logits[0], first)
    for parameter, one, other in zip(model.parameters(), *apart, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, one + other, rtol=1e-5, atol=1e-6)


def test_the_gradients_of_a_step_are_taken_once() -> None:
    model = made("strided")
    batch = pictures(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.learned_logits(batch)
    torch.autograd.backward(logits, batch, retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        torch.autograd.backward(logits, batch)


@pytest.mark.parametrize("threads", [1, 2])
def test_several_python_threads_score_at_once(threads: int) -> None:
    model = with_whole_numbers(made("strided")).eval()
    batch = pictures(model, 40)
    asked = [(count, bf16) for count in (40, 3, 1) for bf16 in (True, False)] * 4
    want = [scores(model, batch[:count], bf16=bf16) for count, bf16 in asked]

    def alone(one: tuple[int, bool]) -> list[Tensor]:
        torch.set_num_threads(threads)
        return scores(model, batch[: one[0]], bf16=one[1])

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(alone, asked), want, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("case", ["another size", "a gradient of the batch", "float64"])
def test_what_the_kernels_cannot_do_the_layers_do(case: str) -> None:
    model = made("pooling")
    batch = torch.rand(2, 1, 28, 28)
    if case == "another size":
        batch = torch.rand(2, 1, 20, 20)
    elif case == "float64":
        model = model.double()
    else:
        batch.requires_grad_()
    assert model.native_for(batch) is None
    with torch.autocast("cpu", torch.bfloat16):
        if case != "float64":  # which autocast does not know
            torch.autograd.backward(model.learned_logits(batch), torch.ones_like(batch))
    assert (batch.grad is not None) == (case == "a gradient of the batch")


def test_a_large_picture_takes_little_memory_at_once() -> None:
    model = registry.build(
        AutoencoderSettings(architecture="pooling", widths=(32, 64)),
        InputSpec(height=512, width=512, channels=3),
        seed=0,
    )
    assert isinstance(model, Autoencoder)
    assert model.native is not None
    assert model.native.at_once == 2


@pytest.mark.parametrize(
    ("changes", "divided"),
    [
        ({}, True),
        ({"error": "l1"}, True),
        ({"error": "ssim"}, False),
        ({"score": "sap"}, False),
        ({"score": "nap"}, False),
    ],
    ids=str,
)
def test_batches_go_side_by_side_where_the_kernels_do_not_score(changes: dict[str, str], divided: bool) -> None:
    for precision in ("fp32", "bf16"):
        backend = TorchBackend(made("strided", **changes), torch.device("cpu"), precision)
        assert backend.streams == (1 if divided else 2)


def test_training_is_the_same_again_and_resumed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 1), dtype=np.uint8)
    settings = TrainingSettings(epochs=3, batch_size=10, precision="bf16")

    def trained(folder: str, epochs: int, *, resume: bool = False) -> list[Tensor]:
        model = registry.build(CASES["strided, wide"][0], InputSpec(height=16, width=16, channels=1), seed=0)
        assert isinstance(model, Autoencoder)
        assert model.native is not None
        some = settings.model_copy(update={"epochs": epochs})
        train(model, pixels, some, torch.device("cpu"), folder=tmp_path / folder, resume=resume)
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = trained("whole", 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained("again", 3), strict=True))
    trained("parts", 1)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained("parts", 3, resume=True), strict=True))


def test_memory_is_let_go_when_learning_ends() -> None:
    model = made("strided")
    assert model.native is not None
    learned(model, pictures(model, 2), pictures(model, 2), bf16=True)
    assert model.native.idle
    model.eval()
    assert not model.native.idle


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_kernels_of_their_own(how: str) -> None:
    model = made("strided").eval()
    batch = pictures(model, 2)
    before = scores(model, batch, bf16=True)
    copied = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(scores(copied, batch, bf16=True)[2], before[2])
    with torch.no_grad():
        next(copied.decoder.parameters()).zero_()
    assert not torch.equal(scores(copied, batch, bf16=True)[2], before[2])
    assert torch.equal(scores(model, batch, bf16=True)[2], before[2])


@pytest.mark.parametrize(
    "changes",
    [{"widths": (12, 32)}, {"widths": (16, 24), "architecture": "pooling"}, {"latent_dim": 100}],
    ids=["widths", "pooling", "latent"],
)
def test_layers_that_the_kernels_do_not_know_stay_pytorchs(changes: dict[str, object]) -> None:
    settings = AutoencoderSettings.model_validate({"widths": (16, 32), "latent_dim": 16} | changes)
    model = registry.build(settings, InputSpec(height=16, width=16, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None
    batch = torch.rand(2, 3, 16, 16)
    assert learned(model, batch, batch, bf16=True)[0].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        (AutoencoderSettings(widths=(16, 16), latent_dim=16), 256),  # 4,096 places before the dense layer
        (AutoencoderSettings(architecture="pooling", widths=(16,)), 1040),
    ],
    ids=["places", "pixels"],
)
def test_tables_do_not_grow_without_bound(
    monkeypatch: pytest.MonkeyPatch, settings: AutoencoderSettings, side: int
) -> None:
    monkeypatch.setattr("oddlens.models.native.parts", lambda *_: pytest.fail("tables are made"))
    model = registry.build(settings, InputSpec(height=side, width=side, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None


def test_on_a_gpu_nobody_asks_for_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(made("strided"), torch.device("cpu"))
    monkeypatch.setattr(backend, "device", torch.device("cuda"))
    monkeypatch.setattr(Autoencoder, "native", property(lambda self: pytest.fail("kernels are asked for")))
    assert backend.streams == 1


def test_exporting_sees_layers_in_inference_mode_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    settings = AutoencoderSettings(widths=(16, 32), latent_dim=16)
    detector = Detector(settings, training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)
    with torch.inference_mode():
        export(detector, tmp_path / "part.onnx")
    np.testing.assert_allclose(Detector.load(tmp_path / "part.onnx").score(pixels), detector.score(pixels), rtol=1e-5)


def test_without_kernels_the_layers_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.models.native.library", lambda: None)
    monkeypatch.setattr("oddlens.models.native.parts", lambda *_: pytest.fail("tables are made for nobody"))
    model = registry.build(CASES["strided"][0], InputSpec(height=24, width=32, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None
    batch = pictures(with_whole_numbers(model), 3)
    want, found = (learned(model, batch, batch, bf16=bf16)[0] for bf16 in (False, True))
    assert torch.equal(found, want)
