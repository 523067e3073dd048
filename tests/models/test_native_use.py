"""When the C kernels run, and what state they keep between calls."""

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
    build_model,
    kernel_outputs,
    layer_outputs,
    logits_and_gradients,
    sample_images,
    two_threads,
    with_integer_weights,
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

__all__ = ["two_threads"]  # for all tests here


def test_alternating_precisions_do_not_affect_each_other() -> None:
    model = build_model("strided").eval()
    batch = torch.rand(sample_images(model, 5).shape)
    first, again = ([kernel_outputs(model, batch, bf16=bf16)[2] for bf16 in (True, False)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("how", ["in place", "optimizer"])
def test_changed_weights_are_packed_again(how: str, bf16: bool) -> None:
    model = with_integer_weights(build_model("strided")).eval()
    batch = sample_images(model, 2)
    before = kernel_outputs(model, batch, bf16=bf16)
    if how == "optimizer":
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        Adam(model.parameters(), lr=1.0).step()
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.neg_()
    after = kernel_outputs(model, batch, bf16=bf16)
    assert not torch.equal(before[2], after[2])
    torch.testing.assert_close(after[2], layer_outputs(model, batch)[2], rtol=1e-3, atol=1e-3)


def test_weights_created_in_inference_mode_are_packed_each_time() -> None:
    with torch.inference_mode():
        model = with_integer_weights(build_model("strided")).eval()
        batch = sample_images(model, 2)
        before = kernel_outputs(model, batch, bf16=True)
        for parameter in model.parameters():
            parameter.neg_()
        after = kernel_outputs(model, batch, bf16=True)
    assert not torch.equal(before[2], after[2])


def test_overlapping_training_steps_do_not_affect_each_other() -> None:
    model = build_model("strided")
    first, second = (torch.rand(sample_images(model, 4).shape) for _ in range(2))
    apart = [logits_and_gradients(model, batch, batch, bf16=True)[1] for batch in (first, second)]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = [model.training_logits(batch) for batch in (first, second, first)]  # the third is never used
    torch.autograd.backward(logits[1], second)
    torch.autograd.backward(logits[0], first)
    for parameter, one, other in zip(model.parameters(), *apart, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, one + other, rtol=1e-5, atol=1e-6)


def test_backward_twice_on_one_step_is_refused() -> None:
    model = build_model("strided")
    batch = sample_images(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.training_logits(batch)
    torch.autograd.backward(logits, batch, retain_graph=True)
    with pytest.raises(RuntimeError, match="works only once"):
        torch.autograd.backward(logits, batch)


@pytest.mark.parametrize("threads", [1, 2])
def test_several_python_threads_can_score_at_once(threads: int) -> None:
    model = with_integer_weights(build_model("strided")).eval()
    batch = sample_images(model, 40)
    cases = [(count, bf16) for count in (40, 3, 1) for bf16 in (True, False)] * 4
    expected = [kernel_outputs(model, batch[:count], bf16=bf16) for count, bf16 in cases]

    def run_case(one: tuple[int, bool]) -> list[Tensor]:
        torch.set_num_threads(threads)
        return kernel_outputs(model, batch[: one[0]], bf16=one[1])

    with ThreadPoolExecutor(4) as pool:
        for actual, outputs in zip(pool.map(run_case, cases), expected, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(actual, outputs, strict=True))


@pytest.mark.parametrize("case", ["another size", "a gradient of the batch", "float64"])
def test_the_layers_run_what_the_kernels_do_not_support(case: str) -> None:
    model = build_model("pooling")
    batch = torch.rand(2, 1, 28, 28)
    if case == "another size":
        batch = torch.rand(2, 1, 20, 20)
    elif case == "float64":
        model = model.double()
    else:
        batch.requires_grad_()
    assert model.native_for(batch) is None
    with torch.autocast("cpu", torch.bfloat16):
        if case != "float64":  # which autocast does not support
            torch.autograd.backward(model.training_logits(batch), torch.ones_like(batch))
    assert (batch.grad is not None) == (case == "a gradient of the batch")


def test_large_images_are_scored_in_pairs() -> None:
    model = registry.build(
        AutoencoderSettings(architecture="pooling", widths=(32, 64)),
        InputSpec(height=512, width=512, channels=3),
        seed=0,
    )
    assert isinstance(model, Autoencoder)
    assert model.native is not None
    assert model.native.images_per_thread == 2


@pytest.mark.parametrize(
    ("changes", "uses_all_threads"),
    [
        ({}, True),
        ({"error": "l1"}, True),
        ({"error": "ssim"}, False),
        ({"score": "sap"}, False),
        ({"score": "nap"}, False),
    ],
    ids=str,
)
def test_batches_are_scored_in_parallel_where_the_kernels_do_not_run(
    changes: dict[str, str], uses_all_threads: bool
) -> None:
    for precision in ("fp32", "bf16"):
        backend = TorchBackend(build_model("strided", **changes), torch.device("cpu"), precision)
        assert backend.streams == (1 if uses_all_threads else 2)


def test_training_is_reproducible_and_resumable(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 1), dtype=np.uint8)
    settings = TrainingSettings(epochs=3, batch_size=10, precision="bf16")

    def train_weights(folder: str, epochs: int, *, resume: bool = False) -> list[Tensor]:
        model = registry.build(CASES["strided, wide"][0], InputSpec(height=16, width=16, channels=1), seed=0)
        assert isinstance(model, Autoencoder)
        assert model.native is not None
        training = settings.model_copy(update={"epochs": epochs})
        train(model, pixels, training, torch.device("cpu"), folder=tmp_path / folder, resume=resume)
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = train_weights("whole", 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, train_weights("again", 3), strict=True))
    train_weights("parts", 1)
    assert all(
        torch.equal(one, other) for one, other in zip(whole, train_weights("parts", 3, resume=True), strict=True)
    )


def test_memory_is_released_when_training_ends() -> None:
    model = build_model("strided")
    assert model.native is not None
    logits_and_gradients(model, sample_images(model, 2), sample_images(model, 2), bf16=True)
    assert model.native.idle
    model.eval()
    assert not model.native.idle


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_have_kernels_of_their_own(how: str) -> None:
    model = build_model("strided").eval()
    batch = sample_images(model, 2)
    before = kernel_outputs(model, batch, bf16=True)
    copied = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(kernel_outputs(copied, batch, bf16=True)[2], before[2])
    with torch.no_grad():
        next(copied.decoder.parameters()).zero_()
    assert not torch.equal(kernel_outputs(copied, batch, bf16=True)[2], before[2])
    assert torch.equal(kernel_outputs(model, batch, bf16=True)[2], before[2])


@pytest.mark.parametrize(
    "changes",
    [{"widths": (12, 32)}, {"widths": (16, 24), "architecture": "pooling"}, {"latent_dim": 100}],
    ids=["widths", "pooling", "latent"],
)
def test_unsupported_layers_run_in_pytorch(changes: dict[str, object]) -> None:
    settings = AutoencoderSettings.model_validate({"widths": (16, 32), "latent_dim": 16} | changes)
    model = registry.build(settings, InputSpec(height=16, width=16, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None
    batch = torch.rand(2, 3, 16, 16)
    assert logits_and_gradients(model, batch, batch, bf16=True)[0].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        (AutoencoderSettings(widths=(16, 16), latent_dim=16), 256),  # 4,096 places before the dense layer
        (AutoencoderSettings(architecture="pooling", widths=(16,)), 1040),
    ],
    ids=["places", "pixels"],
)
def test_too_large_tables_are_not_built(
    monkeypatch: pytest.MonkeyPatch, settings: AutoencoderSettings, side: int
) -> None:
    monkeypatch.setattr("oddlens.models.native.native_layers", lambda *_: pytest.fail("tables are built"))
    model = registry.build(settings, InputSpec(height=side, width=side, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None


def test_on_a_gpu_the_kernels_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(build_model("strided"), torch.device("cpu"))
    monkeypatch.setattr(backend, "device", torch.device("cuda"))
    monkeypatch.setattr(Autoencoder, "native", property(lambda self: pytest.fail("the kernels were built")))
    assert backend.streams == 1


def test_export_uses_the_layers_even_in_inference_mode(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    settings = AutoencoderSettings(widths=(16, 32), latent_dim=16)
    detector = Detector(settings, training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)
    with torch.inference_mode():
        export(detector, tmp_path / "part.onnx")
    np.testing.assert_allclose(Detector.load(tmp_path / "part.onnx").score(pixels), detector.score(pixels), rtol=1e-5)


def test_without_kernels_the_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.models.native.library", lambda: None)
    monkeypatch.setattr("oddlens.models.native.native_layers", lambda *_: pytest.fail("tables are built"))
    model = registry.build(CASES["strided"][0], InputSpec(height=24, width=32, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None
    batch = sample_images(with_integer_weights(model), 3)
    expected, actual = (logits_and_gradients(model, batch, batch, bf16=bf16)[0] for bf16 in (False, True))
    assert torch.equal(actual, expected)
