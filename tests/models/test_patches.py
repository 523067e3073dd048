"""Patch dictionaries, patch variance and spherical k-means."""

from __future__ import annotations

import torch

from oddlens.models.patches import PatchDictionary, patch_variance, spherical_kmeans


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
