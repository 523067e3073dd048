"""Learning in two halves at the same time: the same gradients, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from oddlens import models, train
from oddlens.config import AutoencoderSettings, InputSpec, TrainingSettings, TransformsSettings
from oddlens.images import Pixels
from oddlens.models import Learner
from oddlens.shards import Shards, sharded

SPEC = InputSpec(height=16, width=16, channels=1)
CPU = torch.device("cpu")
MUON = TrainingSettings(epochs=2, batch_size=32, optimizer="muon", schedule="linear", precision="fp32")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (100, 16, 16, 1), dtype=np.uint8)


def learner(settings: AutoencoderSettings | TransformsSettings) -> Learner:
    model = models.build(settings, SPEC, seed=0).train()
    assert isinstance(model, Learner)
    return model


def test_the_gradients_are_those_of_the_whole_batch(pixels: Pixels) -> None:
    model = learner(AutoencoderSettings(widths=(8, 16), latent_dim=8))
    batch = torch.from_numpy(pixels[:37])
    whole = model.loss(model.scale(batch))
    whole.backward()  # type: ignore[no-untyped-call]
    expected = [parameter.grad for parameter in model.parameters()]
    with sharded(model, CPU, bf16=False) as shards:
        loss = shards.learn(batch, seed=1)
    assert len(shards.models) == 2
    assert float(loss) == pytest.approx(float(whole), rel=1e-6)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "training"),
    [
        (TransformsSettings(side=16, widths=(8, 8, 16), bank=50), MUON),
        (AutoencoderSettings(widths=(8,), latent_dim=8, noise=0.1), TrainingSettings(epochs=2, batch_size=32)),
    ],
)
def test_one_thread_and_two_learn_bitwise_the_same(
    settings: AutoencoderSettings | TransformsSettings, training: TrainingSettings, pixels: Pixels
) -> None:
    learnt = []
    for count in (1, 2):
        torch.set_num_threads(count)
        model = learner(settings)
        history = train.train(model, pixels, training, CPU)
        assert torch.get_num_threads() == count
        learnt.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert len(history) == 2
    for name, tensor in learnt[0].items():
        assert torch.equal(tensor, learnt[1][name]), name


def test_copies_share_the_weights_and_agree_on_what_they_measured(pixels: Pixels) -> None:
    model = learner(TransformsSettings(side=16, widths=(8, 8, 16), bank=50))
    with sharded(model, CPU, bf16=False) as shards:
        first, second = shards.models
        assert first is model
        with torch.no_grad():
            next(model.parameters()).add_(1)
        assert torch.equal(next(first.parameters()), next(second.parameters()))
        shards.learn(torch.from_numpy(pixels[:64]), seed=2)
        mine, theirs = (dict(each.named_buffers()) for each in shards.models)
        moved = [name for name in mine if not torch.equal(mine[name], theirs[name])]
        assert moved  # running means of two halves
        expected = {name: (mine[name] + theirs[name]) / 2 for name in moved}
        shards.agree()
        for name in moved:
            torch.testing.assert_close(mine[name], expected[name])
            assert torch.equal(mine[name], theirs[name])
    assert model.draw is None


def test_what_is_random_follows_from_the_seed_alone(pixels: Pixels) -> None:
    model = learner(AutoencoderSettings(widths=(8,), latent_dim=8, noise=0.5))
    batch = torch.from_numpy(pixels[:32])
    before = torch.random.get_rng_state()
    with sharded(model, CPU, bf16=False) as shards:
        losses = [float(shards.learn(batch, seed)) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(before, torch.random.get_rng_state())  # a user's own randomness is left alone


def test_a_small_batch_is_not_cut(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    model = learner(AutoencoderSettings(widths=(8,), latent_dim=8))
    sizes: list[int] = []

    def counted(self: Learner, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum()

    monkeypatch.setattr(type(model), "loss", counted)
    with sharded(model, CPU, bf16=False) as shards:
        shards.learn(torch.from_numpy(pixels[:15]), seed=1)
        shards.learn(torch.from_numpy(pixels[:17]), seed=1)
    assert sorted(sizes) == [8, 9, 15]


def test_an_error_in_a_half_reaches_the_caller_and_the_threads_are_given_back(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learner(AutoencoderSettings(widths=(8,), latent_dim=8))
    torch.set_num_threads(2)

    def broken(self: Learner, batch: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken")

    monkeypatch.setattr(type(model), "loss", broken)
    with pytest.raises(ValueError, match="broken"), sharded(model, CPU, bf16=False) as shards:
        assert torch.get_num_threads() == 1
        shards.learn(torch.from_numpy(pixels[:32]), seed=1)
    assert torch.get_num_threads() == 2


def test_elsewhere_than_on_a_processor_a_batch_stays_whole() -> None:
    model = learner(AutoencoderSettings(widths=(8,), latent_dim=8))
    shards = Shards(model, torch.device("meta"), bf16=False)
    assert shards.models == [model]
    shards.pool.shutdown()
