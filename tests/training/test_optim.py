"""Muon: orthogonal steps for convolutions, Adam for the rest."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from oddlens.training.optim import Adam, Muon, orthogonalize


def take_five_steps(layer: nn.Module, optimizer: Adam | torch.optim.Optimizer) -> None:
    batch = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        torch.autograd.backward(layer(batch).square().mean())
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_steps_are_nearly_orthogonal(shape: tuple[int, int], dtype: torch.dtype) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalize(matrix, dtype))
    assert singular.max() < 1.3
    assert singular.median() > 0.5
    assert torch.linalg.svdvals(matrix).max() > 2 * torch.linalg.svdvals(matrix).min()


def test_in_float32_a_step_follows_the_gradient_to_the_last_digits() -> None:
    matrix = torch.randn((16, 30), generator=torch.Generator().manual_seed(0))
    exact = orthogonalize(matrix.double(), torch.float64)
    assert (orthogonalize(matrix, torch.float32) - exact).abs().max() < 1e-5
    assert (orthogonalize(matrix, torch.bfloat16) - exact).abs().max() > 1e-3


def test_convolutions_have_a_fixed_norm_for_any_gradient() -> None:
    layer = nn.Conv2d(3, 8, 3, bias=False)
    optimizer = Muon(layer.parameters(), lr=1e-4)
    for _ in range(5):
        torch.autograd.backward(layer(torch.randn(2, 3, 8, 8)).square().sum() * 1000)
        optimizer.step()
        optimizer.zero_grad()
    assert layer.weight.norm().item() == pytest.approx(8**0.5, rel=0.05)


def test_other_parameters_are_stepped_by_adam() -> None:
    ours, theirs = (nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine, other = Muon(ours.parameters(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    take_five_steps(ours, mine)
    take_five_steps(theirs, other)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-6)


def test_adam_steps_are_bitwise_those_of_pytorch() -> None:
    ours, theirs = (nn.Conv2d(1, 3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = Adam(ours.parameters(), lr=0.02, weight_decay=0.1)
    mine.factor = 0.5
    take_five_steps(ours, mine)
    take_five_steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, fused=True))
    assert torch.equal(ours.weight, theirs.weight)


def test_parameters_without_a_gradient_stay() -> None:
    layer = nn.Linear(4, 3)
    before, optimizer = layer.bias.clone(), Adam(layer.parameters(), lr=0.1)
    torch.autograd.backward((layer.weight * 2).sum())
    optimizer.step()
    assert torch.equal(layer.bias, before)
    assert float(optimizer.states[1]["step"]) == 0


def test_training_does_not_import_the_compiler() -> None:
    program = (
        "import sys, numpy as np; from oddlens import Detector\n"
        "Detector('autoencoder').fit(np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), dtype=np.uint8))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_muon_lowers_the_loss_of_a_small_classifier() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    optimizer = Muon(network.parameters(), lr=1e-3)
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 2
    images[labels == 1, :, :, :4] += 1.0
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
