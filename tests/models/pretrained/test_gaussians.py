"""Gaussians at places: leaving out is exact, and the prior helps where images are few."""

from __future__ import annotations

import pytest
import torch

from oddlens.models.pretrained.gaussians import PlaceGaussians, PlaceScatter


def random_rows(count: int, dims: int, places: int, copies: int, seed: int = 0) -> torch.Tensor:
    """Correlated features (P, copies * count, D)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(places, dims, dims, generator=generator, dtype=torch.float64)
    rows = torch.randn(places, count, dims, generator=generator, dtype=torch.float64) @ mixing
    noise = 0.2 * torch.randn(places, (copies - 1) * count, dims, generator=generator, dtype=torch.float64)
    return torch.cat([rows, rows.repeat(1, copies - 1, 1) + noise], dim=1)


@pytest.mark.parametrize(("count", "copies"), [(4, 1), (9, 1), (9, 3)])
@pytest.mark.parametrize("prior", [0.5, 20.0])
def test_leaving_an_image_out_gives_the_gaussian_of_the_others(count: int, copies: int, prior: float) -> None:
    rows = random_rows(count, 5, 2, copies)
    scatter = PlaceScatter(rows, torch.ones(5, dtype=torch.float64), count)
    likelihoods, distances = scatter.left_out(slice(0, 2), prior)
    for place in range(2):
        for image in range(count):
            others = rows[place, [i for i in range(copies * count) if i % count != image]]
            centered = others - others.mean(dim=0)
            total = count - 1 + prior
            own = scatter.centered[place, image::count]
            without_own = scatter.shared - own.T @ own / (2 * copies * count)  # in two places
            squares = centered.T @ centered / copies + prior * without_own + (count + prior) * scatter.ridge
            covariance = squares / total
            difference = rows[place, image] - others.mean(dim=0)
            squared = difference @ torch.linalg.solve(covariance, difference)
            assert float(distances[place, image]) == pytest.approx(float(squared.sqrt()), rel=5e-3)
            expected = -0.5 * float(torch.logdet(covariance) + squared)
            assert float(likelihoods[place, image]) == pytest.approx(expected, rel=5e-3, abs=5e-3)


def test_new_normal_images_have_a_distance_of_about_one() -> None:
    rows = random_rows(200, 6, 4, 1).float()
    gaussians = PlaceGaussians(6, 2, 2)
    features = rows.permute(1, 2, 0).reshape(200, 6, 2, 2)
    gaussians.fit(features[:150], 150)
    assert float(gaussians(features[150:]).mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("count", "places"), [(60, 1), (60, 16), (150, 1), (150, 4)])
def test_the_scale_is_that_of_new_images_though_features_outnumber_the_training_images(count: int, places: int) -> None:
    rows = random_rows(count + 100, 112, places, 1).float()
    features = rows.permute(1, 2, 0).reshape(count + 100, 112, places, 1)
    gaussians = PlaceGaussians(112, places, 1)
    gaussians.fit(features[:count], count)
    assert 0.75 < float(gaussians(features[count:]).mean()) < 1.35


def test_few_images_borrow_the_covariance_of_the_other_places() -> None:
    rows = random_rows(60, 12, 40, 1).float()
    few, many = (PlaceScatter(rows[:, :count], torch.ones(12), count) for count in (8, 60))
    assert few.likelihood(1.0) > few.likelihood(0.0)
    assert many.likelihood(0.0) > many.likelihood(1.0)  # they have enough of their own


def test_constant_features_do_no_harm() -> None:
    gaussians = PlaceGaussians(3, 2, 2)
    features = torch.rand(10, 3, 2, 2)
    features[:, 1] = 0.25
    gaussians.fit(features, 10)
    assert torch.isfinite(gaussians(torch.rand(5, 3, 2, 2))).all()


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_enough_for_finite_distances(count: int) -> None:
    gaussians = PlaceGaussians(3, 2, 2)
    features = torch.rand(count, 3, 2, 2)
    gaussians.fit(features, count)
    distances = gaussians(torch.rand(5, 3, 2, 2))
    assert torch.isfinite(distances).all()
    assert (distances > 0).all()
