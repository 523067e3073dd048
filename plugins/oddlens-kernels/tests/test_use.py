"""What state the kernels keep between calls, and which networks they do not support."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from oddlens_kernels.autoencoder import accelerate
from torch import Tensor, nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.errors import StateError
from oddlens.models import registry
from oddlens.models.autoencoder import Autoencoder
from oddlens.training.loop import train
from oddlens.training.optim import Adam

pytestmark = pytest.mark.usefixtures("kernels_run")


def test_alternating_precisions_do_not_affect_each_other() -> None:
    model = build_model("strided").eval()
    batch = torch.rand(sample_images(model, 5).shape)
    first, again = ([kernel_outputs(model, batch, bf16=bf16)[2] for bf16 in (True, False)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("how", ["in place", "optimizer"])
def test_weights_changed_by_pytorch_are_packed_again(how: str, bf16: bool) -> None:
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


def negate_in_place(parameter: nn.Parameter) -> None:
    parameter.data.neg_()


def negate_as_array(parameter: nn.Parameter) -> None:
    array = parameter.detach().numpy()
    np.negative(array, out=array)


def change_last_number(parameter: nn.Parameter) -> None:
    parameter.data[(-1,) * parameter.ndim] += 1


def assign_negative(parameter: nn.Parameter) -> None:
    parameter.data = -parameter.data


def assign_with_gaps(parameter: nn.Parameter) -> None:
    parameter.data = torch.stack([-parameter.data, parameter.data], dim=-1)[..., 0]


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(
    "edit", [negate_in_place, negate_as_array, change_last_number, assign_negative, assign_with_gaps]
)
def test_weights_changed_without_a_trace_are_packed_again(edit: Callable[[nn.Parameter], None], bf16: bool) -> None:
    model = with_integer_weights(build_model("strided")).eval()
    batch = sample_images(model, 2)
    for change in (edit, change_last_number):
        before = kernel_outputs(model, batch, bf16=bf16)
        for parameter in model.parameters():
            change(parameter)
        after = kernel_outputs(model, batch, bf16=bf16)
        assert not torch.equal(before[2], after[2])
        assert_outputs_close(after, layer_outputs(model, batch))


def test_weights_with_other_axes_on_the_same_bytes_are_packed_again() -> None:
    model = with_integer_weights(build_model("one place at the bottom")).eval()
    batch = sample_images(model, 2)
    (square,) = [layer for layer in model.encoder if isinstance(layer, nn.Linear)]
    assert square.weight.shape == (32, 32)
    before = kernel_outputs(model, batch, bf16=True)
    square.weight.data = square.weight.data.T
    after = kernel_outputs(model, batch, bf16=True)
    assert not torch.equal(before[2], after[2])
    assert_outputs_close(after, layer_outputs(model, batch))


def test_training_sees_parameters_with_gaps() -> None:
    model, other = (with_integer_weights(build_model("strided")) for _ in range(2))
    for parameter in [*model.parameters(), *other.parameters()]:
        assign_with_gaps(parameter)
    batch = sample_images(model, 3)
    actual = logits_and_gradients(model, batch, batch, bf16=True)[0]
    assert torch.equal(actual, logits_and_gradients(other, batch, batch, bf16=False)[0])


@pytest.mark.parametrize("value", [torch.zeros(16, 3, 3, 3).double(), torch.zeros(16, 3, 1, 1)], ids=["type", "shape"])
def test_parameters_of_another_type_or_shape_are_refused(value: Tensor) -> None:
    model = build_model("strided").eval()
    batch = sample_images(model, 2)
    next(model.encoder.parameters()).data = value
    expected = r"a parameter is now .* but was torch.float32 of shape \(16, 3, 3, 3\)"
    with pytest.raises(StateError, match=expected):
        kernel_outputs(model, batch, bf16=True)
    with pytest.raises(StateError, match=expected):
        logits_and_gradients(model, batch, batch, bf16=True)


def test_weights_created_in_inference_mode_may_change() -> None:
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


def test_large_images_are_scored_in_pairs() -> None:
    model = registry.build(
        AutoencoderSettings(architecture="pooling", widths=(32, 64)),
        InputSpec(height=512, width=512, channels=3),
        seed=0,
    )
    assert isinstance(model, Autoencoder)
    assert kernel_network(model).images_per_thread == 2


def test_training_is_reproducible_and_resumable(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 1), dtype=np.uint8)
    settings = TrainingSettings(epochs=3, batch_size=10, precision="bf16")

    def train_weights(folder: str, epochs: int, *, resume: bool = False) -> list[Tensor]:
        model = registry.build(CASES["strided, wide"][0], InputSpec(height=16, width=16, channels=1), seed=0)
        assert isinstance(model, Autoencoder)
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
    logits_and_gradients(model, sample_images(model, 2), sample_images(model, 2), bf16=True)
    assert kernel_network(model).idle
    model.eval()
    assert not kernel_network(model).idle


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
    ids=["widths", "pooling", "latent_dim"],
)
def test_unsupported_layers_run_in_pytorch(changes: dict[str, object]) -> None:
    settings = AutoencoderSettings.model_validate({"widths": (16, 32), "latent_dim": 16} | changes)
    model = registry.build(settings, InputSpec(height=16, width=16, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.accelerated is None
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
    monkeypatch.setattr("oddlens_kernels.autoencoder.kernel_layers", lambda *_: pytest.fail("tables are built"))
    model = registry.build(settings, InputSpec(height=side, width=side, channels=1), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.accelerated is None


def test_layers_and_channels_that_the_kernels_have_no_form_for_are_left_to_pytorch() -> None:
    layers = [*(model := build_model("pooling")).encoder, *model.decoder]
    assert accelerate(layers, 28, 28, 1) is not None
    assert accelerate([*layers[:2], nn.BatchNorm2d(32), *layers[2:]], 28, 28, 1) is None
    assert accelerate(layers, 28, 28, 4) is None
