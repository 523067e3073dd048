"""The parts of the dictionary family: memory banks, patch dictionaries and k-means."""

from __future__ import annotations

import pytest
import torch

from oddlens.models.memory_bank import MemoryBank, PatchDictionary, patch_variance, spherical_kmeans


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


def test_patch_variance_is_the_variance_of_each_patch() -> None:
    batch = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = batch.unfold(2, 4, 2).unfold(3, 4, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).var(dim=3, correction=0)
    torch.testing.assert_close(patch_variance(batch, 4, 2)[:, 0], expected)


def test_kmeans_recovers_the_directions_of_the_points() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(5)[:3]
    points = torch.randn(600, 1, generator=generator) * directions.repeat(200, 1)
    points = points + 0.01 * torch.randn(600, 5, generator=generator)
    similarity = (spherical_kmeans(points, 12, generator) @ directions.T).abs().max(dim=0).values
    assert (similarity > 0.99).all()


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


def test_responses_do_not_depend_on_brightness_and_little_on_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(2, 1, 12, 12, generator=generator)
    patches = batch.unfold(2, 4, 1).unfold(3, 4, 1).reshape(-1, 16)
    dictionary = PatchDictionary(8, 1, 4, stride=1)
    dictionary.fit(patches, generator)
    responses = dictionary(batch)
    assert responses.shape == (2, 8, 9, 9)
    assert responses.abs().max() > 0.5
    torch.testing.assert_close(dictionary(batch + 0.5), responses, atol=1e-3, rtol=0)
    torch.testing.assert_close(dictionary(batch * 0.8), responses, atol=0.1, rtol=0)
    assert not dictionary(torch.full((1, 1, 12, 12), 0.5)).isnan().any()
