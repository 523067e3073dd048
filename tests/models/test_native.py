"""The kernels in C compute what PyTorch's layers do: exactly, where numbers are small whole ones."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oddlens import Detector, kernels, models
from oddlens.backends.torch import TorchBackend
from oddlens.config import AutoencoderSettings, InputSpec, TrainingSettings
from oddlens.export import export
from oddlens.models import Scored
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.layers import pad_to_multiple
from oddlens.models.products import UpsampledConv2d
from oddlens.optim import Adam
from oddlens.train import train

RUN = (
    sys.platform == "linux"
    and shutil.which("cc") is not None
    and torch.cpu._is_avx512_bf16_supported()
    and os.environ.get("ODDLENS_KERNELS") != "off"
)

CASES = {
    "strided": (AutoencoderSettings(widths=(16, 32, 48), latent_dim=16), (24, 32, 3)),
    "strided, wide": (AutoencoderSettings(widths=(32, 64), latent_dim=128), (16, 16, 1)),
    "strided, padded": (AutoencoderSettings(widths=(16, 32), latent_dim=32), (18, 21, 3)),
    "one place at the bottom": (AutoencoderSettings(widths=(16, 16, 32), latent_dim=32), (8, 8, 1)),
    "pooling": (AutoencoderSettings(architecture="pooling", widths=(32, 64)), (28, 28, 1)),
    "pooling to one place": (AutoencoderSettings(architecture="pooling", widths=(16, 16, 32)), (8, 8, 1)),
    "pooling to a line": (AutoencoderSettings(architecture="pooling", widths=(16, 16, 32)), (8, 24, 3)),
    "pooling, padded": (AutoencoderSettings(architecture="pooling", widths=(16, 32, 16)), (18, 30, 3)),
}


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, and kernels wherever they run, with a matrix unit, too."""
    if not RUN:
        pytest.skip("the kernels need Linux, a C compiler, and a processor with bfloat16 products")
    monkeypatch.setattr(kernels, "made_for_this", lambda: True)
    forget()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    forget()


def forget() -> None:
    """Whether there are kernels is found out anew."""
    kernels.library.cache_clear()
    kernels.path.cache_clear()


def made(name: str, **changes: object) -> Autoencoder:
    """A model of a case, with the memory layout that it has in training."""
    settings, (height, width, channels) = CASES[name]
    spec = InputSpec.model_validate({"height": height, "width": width, "channels": channels})
    model = models.build(settings.model_copy(update=changes), spec, seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is not None, "the kernels were not built, or not loaded"
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


def scores(model: Autoencoder, batch: Tensor, *, bf16: bool) -> list[Tensor]:
    """By the kernels: score, map, reconstruction."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return listed(model(batch))


def by_layers(model: Autoencoder, batch: Tensor) -> list[Tensor]:
    """The same in float32 by PyTorch's layers, which work wherever more than scoring may go on."""
    assert model.native is not None
    idle = list(model.native.idle)
    with torch.no_grad():
        found = listed(model(batch))
    assert model.native.idle == idle, "the kernels were asked"
    return found


def listed(scored: Scored) -> list[Tensor]:
    assert scored.anomaly_map is not None
    assert scored.reconstruction is not None
    return [scored.anomaly_score, scored.anomaly_map, scored.reconstruction]


def assert_alike(found: list[Tensor], want: list[Tensor]) -> None:
    """Logits are the same; sigmoids and means are rounded elsewhere."""
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)


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


def test_precisions_in_turn_do_not_see_each_other() -> None:
    model = made("strided").eval()
    batch = torch.rand(pictures(model, 5).shape)
    first, again = ([scores(model, batch, bf16=bf16)[2] for bf16 in (True, False)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(*first)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_region_of_interest_counts_as_ever(bf16: bool) -> None:
    model = with_whole_numbers(made("strided")).eval()
    model.set_roi(np.arange(24 * 32).reshape(24, 32) % 5 == 0)
    batch = pictures(model, 3)
    assert_alike(scores(model, batch, bf16=bf16), by_layers(model, batch))


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


def test_weights_may_lie_in_any_order() -> None:
    model, other = made("strided"), made("strided")
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = pictures(model, 3)
    found, want = (learned(each, batch, batch, bf16=True) for each in (model, other))
    assert torch.equal(found[0], want[0])
    assert all(torch.equal(one, same) for one, same in zip(found[1], want[1], strict=True))


def test_a_large_picture_takes_little_memory_at_once() -> None:
    model = models.build(
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
        model = models.build(CASES["strided, wide"][0], InputSpec(height=16, width=16, channels=1), seed=0)
        assert isinstance(model, Autoencoder)
        assert model.native is not None
        some = settings.model_copy(update={"epochs": epochs})
        train(model, pixels, some, torch.device("cpu"), folder=tmp_path / folder, resume=resume)
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = trained("whole", 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained("again", 3), strict=True))
    trained("parts", 1)
    assert all(torch.equal(one, other) for one, other in zip(whole, trained("parts", 3, resume=True), strict=True))


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
    model = models.build(settings, InputSpec(height=16, width=16, channels=3), seed=0)
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
    model = models.build(settings, InputSpec(height=side, width=side, channels=1), seed=0)
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
    model = models.build(CASES["strided"][0], InputSpec(height=24, width=32, channels=3), seed=0)
    assert isinstance(model, Autoencoder)
    assert model.native is None
    batch = pictures(with_whole_numbers(model), 3)
    want, found = (learned(model, batch, batch, bf16=bf16)[0] for bf16 in (False, True))
    assert torch.equal(found, want)
