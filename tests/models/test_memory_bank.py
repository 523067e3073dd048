"""Memory banks of normal descriptors."""

from __future__ import annotations

import pytest
import torch

from oddlens.models.memory_bank import MemoryBank


@pytest.mark.parametrize("skip", [0, 1])
def test_a_bank_of_one_row_measures_the_distance_to_it(skip: int) -> None:
    bank = MemoryBank(4, 4, neighbours=2)
    bank.store(torch.ones(1, 4))
    new = torch.tensor([[1.0, 1, 1, 1], [4, 5, 1, 1]])
    torch.testing.assert_close(bank(new, skip=skip).exp(), torch.tensor([0.001, 5.001]))


def test_distances_equal_those_of_a_brute_force_search() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(6, 6, neighbours=3)
    rows = torch.randn(50, 6, generator=generator) + 100  # far from the origin, where products lose digits
    bank.store(rows)
    new = torch.randn(8, 6, generator=generator) + 100
    expected = (new[:, None] - rows).norm(dim=2).sort(dim=1).values[:, :3].mean(dim=1)
    torch.testing.assert_close(bank(new).exp(), expected + 1e-3)
    others = (rows[:, None] - rows).norm(dim=2).sort(dim=1).values[:, 1:4].mean(dim=1)
    torch.testing.assert_close(bank(rows, skip=1).exp(), others + 1e-3)


def test_projected_descriptors_are_uncorrelated_in_order_of_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(500, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    bank = MemoryBank(8, 3, neighbours=1)
    bank.fit_axes(descriptors)
    covariance = torch.cov(bank.project(descriptors).T, correction=0)
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(variances), atol=1e-4 * float(variances.max()), rtol=0)
    assert (variances.diff() < 0).all()
    assert float(variances.sum()) == pytest.approx(8, rel=0.01)  # of standardized features of rank 3


def test_excluding_an_image_from_its_neighbours_equals_skipping_it() -> None:
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    bank = MemoryBank(4, 4, neighbours=2)
    bank.store(rows)
    skipped = bank(rows, skip=1)
    bank.excludes_self = True
    torch.testing.assert_close(bank(rows), skipped)
    others = bank(rows + 3)  # not in the bank: nothing to exclude, so only the farthest of three neighbours is dropped
    bank.excludes_self = False
    torch.testing.assert_close(others, bank(rows + 3))
