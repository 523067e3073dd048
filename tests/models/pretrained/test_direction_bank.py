"""The bank of directions: what it measures, how it leaves images out, and how it limits them."""

from __future__ import annotations

import pytest
import torch

from oddlens.models.pretrained.direction_bank import DirectionBank


def two_clusters(count: int, seed: int, spread: float = 0.05) -> torch.Tensor:
    """Features (count, 4) of two kinds of normal images, in turn."""
    centres = torch.tensor([[1.0, 0.2, 0.0, 0.0], [0.2, 1.0, 0.0, 0.0]]).repeat(count // 2, 1)
    return centres + spread * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_what_lies_between_two_kinds_of_normal_images_is_far_from_both() -> None:
    bank = DirectionBank(4)
    bank.fit(two_clusters(100, 0), 100, 100)
    between = torch.tensor([[1.0, 1.0, 0.5, 0.0]])
    assert float(bank(between).min()) > 5 * float(bank(two_clusters(100, 1)).mean())


def test_distances_of_left_out_images_are_like_those_of_new_ones() -> None:
    bank = DirectionBank(4)
    left_out = bank.fit(two_clusters(200, 0), 200, 200)
    assert float(left_out.mean()) == pytest.approx(float(bank(two_clusters(200, 1)).mean()), rel=0.3)
    assert float(left_out.min()) > 0


def test_an_image_is_left_out_with_its_copies() -> None:
    images = two_clusters(20, 0)
    alone = DirectionBank(4).fit(images, 20, 20)
    with_copies = DirectionBank(4).fit(torch.cat([images, images]), 20, 20)
    torch.testing.assert_close(with_copies > 0, torch.ones(20, dtype=torch.bool))
    assert (with_copies <= alone + 1e-6).all()  # its nearest image counts twice


def test_the_length_of_features_does_not_count() -> None:
    bank = DirectionBank(4)
    bank.fit(two_clusters(50, 0), 50, 50)
    images = two_clusters(10, 1)
    torch.testing.assert_close(bank(3 * images), bank(images))


def test_at_most_so_many_images_are_stored_each_with_its_copies() -> None:
    bank = DirectionBank(4)
    images = two_clusters(100, 0)
    bank.fit(torch.cat([images, images.flip(1)]), 100, 30)
    assert len(bank.rows) <= 60
    torch.testing.assert_close(bank.rows[0], bank.directions(images[:1])[0])
    torch.testing.assert_close(bank.rows[len(bank.rows) // 2], bank.directions(images[:1].flip(1))[0])


def test_a_single_image_has_a_finite_distance() -> None:
    assert torch.isfinite(DirectionBank(4).fit(torch.rand(1, 4), 1, 10)).all()
