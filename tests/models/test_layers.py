"""Layers and functions that several families share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from oddlens.models.layers import (
    SSIM,
    BatchNorm,
    ResizeTo,
    WhitenedDistance,
    covariance_eigh,
    drop_self_distance,
    ledoit_wolf_whitening,
    pad_to_multiple,
    squareplus,
)


def test_padding_repeats_the_bottom_and_right_edges() -> None:
    padded = pad_to_multiple(torch.arange(6.0).reshape(1, 1, 2, 3), 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0, 3].tolist() == [3, 4, 5, 5]


def test_squareplus_is_positive_and_increasing() -> None:
    values = torch.cat([torch.linspace(-1000, 1000, 4001), torch.tensor([-1e9, -1e6, 1e6, 1e9])]).sort().values
    mapped = squareplus(values)
    assert (mapped > 0).all()
    assert (mapped.diff() > 0).all()
    torch.testing.assert_close(squareplus(values.double()).float(), mapped, rtol=1e-6, atol=0)  # nothing cancels
    torch.testing.assert_close(mapped[values > 100], values[values > 100], rtol=1e-4, atol=0)


def test_ssim_is_zero_for_equal_images_and_grows_with_difference() -> None:
    ssim = SSIM(1, 20, 20)
    image = torch.rand(1, 1, 20, 20)
    torch.testing.assert_close(ssim(image, image), torch.zeros(1, 20, 20), atol=1e-6, rtol=0)
    small, large = ssim(image, image + 0.02 * torch.rand(1, 1, 20, 20)), ssim(image, torch.rand(1, 1, 20, 20))
    assert 0 < float(small.mean()) < 0.2 < float(large.mean()) <= 2


def test_ssim_follows_the_published_formula() -> None:
    first, second = torch.rand(1, 1, 11, 11), torch.rand(1, 1, 11, 11)
    ssim = SSIM(1, 11, 11)
    window = ssim.window[0, 0].double()
    x, y = first[0, 0].double(), second[0, 0].double()
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy, cxy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum(), (window * (x - mx) * (y - my)).sum()
    published = (2 * mx * my + 1e-4) * (2 * cxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert float(1 - published) == pytest.approx(float(ssim(first, second)[0, 5, 5]), abs=1e-5)


def test_the_shrunk_covariance_is_that_of_scikit_learn() -> None:
    samples = np.random.default_rng(0).normal(size=(40, 12)) * np.linspace(0.5, 3, 12)
    mean, whitening = ledoit_wolf_whitening(torch.from_numpy(samples))
    shrunk = torch.linalg.inv(whitening.double() @ whitening.double().T).numpy()
    np.testing.assert_allclose(shrunk, ledoit_wolf(samples)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mean.numpy(), samples.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_covariance_is_decomposed_into_ascending_eigenvalues() -> None:
    samples = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4])
    centered = samples - samples.mean(dim=0)
    eigenvalues, eigenvectors = covariance_eigh(centered, torch.float64)
    assert eigenvalues.dtype == torch.float64
    assert (eigenvalues.diff() > 0).all()
    rebuilt = (eigenvectors * eigenvalues) @ eigenvectors.T
    torch.testing.assert_close(rebuilt.float(), torch.cov(samples.T, correction=0))
    assert covariance_eigh(centered)[0].dtype == torch.float32


def test_whitened_training_features_have_a_mean_square_of_one() -> None:
    samples = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7)
    distance = WhitenedDistance(6)
    distance.fit(samples)
    assert float(distance(samples).square().mean()) == pytest.approx(2, rel=0.01)  # 1 + the mean square
    assert float(distance(samples.mean(dim=0, keepdim=True))) == pytest.approx(1, abs=1e-5)


def test_batch_normalization_uses_running_statistics_outside_training() -> None:
    norm, batch = BatchNorm(2), torch.randn(64, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 5 + 3
    normalized = norm.train()(batch)
    torch.testing.assert_close(normalized.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.mean, 0.1 * batch.mean(dim=(0, 2, 3)))
    norm.eval()
    torch.testing.assert_close(norm(batch)[:1], norm(batch[:1]))
    assert {tensor.dtype for tensor in norm.state_dict().values()} == {torch.float32}


def test_resizing_averages_before_it_interpolates() -> None:
    batch = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ResizeTo(32, 48, 16)(batch), torch.nn.functional.avg_pool2d(batch, (2, 3)))
    assert ResizeTo(20, 33, 16)(batch[:, :, :20, :33]).shape == (2, 3, 16, 16)
    assert ResizeTo(32, 32, 32)(batch[..., :32]).data_ptr() == batch.data_ptr()


def test_only_a_far_smaller_nearest_distance_is_dropped() -> None:
    distances = torch.tensor([[0.01, 1, 2], [0.5, 1, 2]])
    assert drop_self_distance(distances).tolist() == [[1, 2], [0.5, 1]]
