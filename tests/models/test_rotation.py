"""transforms: turns are exact, what it learns generalises, and it knows when turning means nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import TransformsSettings
from oddlens.data.image_io import Pixels
from oddlens.models import registry
from oddlens.models.rotation import Rotation, quadrant_means, random_shift, rotations, whitening_filters
from oddlens.training import loop

SETTINGS = TransformsSettings(side=16, widths=(8, 8, 16), bank=60, mirror=False)
TRAINING = TrainingSettings(epochs=10, batch_size=32, optimizer="muon", schedule="linear")


def static(count: int) -> Pixels:
    """Noise: turned, it is noise."""
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 1), dtype=np.uint8)
    return pixels


def steps(count: int, seed: int) -> Pixels:
    """Pictures (N, 16, 16, 1) of stairs that go down to the right, in different places and lights."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (count, 16, 16, 1), dtype=np.uint8)
    for picture in pixels:
        top, left, light = rng.integers(0, 4), rng.integers(0, 4), rng.integers(120, 220)
        for step in range(4):
            picture[top + 3 * step : top + 3 * step + 3, left : left + 3 * (step + 1)] = light
    return pixels


@pytest.fixture(scope="module")
def trained() -> Rotation:
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    loop.train(model, steps(240, 0), TRAINING, torch.device("cpu"))
    assert isinstance(model, Rotation)
    return model


def scores(model: Rotation, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(model.scale(torch.from_numpy(np.ascontiguousarray(pixels)))).anomaly_score.numpy()
        return found


def test_turns_are_quarter_turns() -> None:
    batch = torch.arange(2 * 9.0).reshape(2, 1, 3, 3)
    for quarter, view in enumerate(rotations(batch)):
        assert torch.equal(view, torch.rot90(batch, quarter, (2, 3)))


def test_shifting_moves_whole_pictures_by_at_most_the_reach() -> None:
    torch.manual_seed(0)
    batch = torch.zeros(50, 1, 9, 9)
    batch[:, :, 4, 4] = 1
    places = random_shift(batch, 2).flatten(1).argmax(dim=1)
    rows, columns = places // 9, places % 9
    assert [int(n) for n in (rows.min(), rows.max(), columns.min(), columns.max())] == [2, 6, 2, 6]


def test_whitened_patches_are_uncorrelated() -> None:
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 18, 18), 3, 1)
    filters = whitening_filters(smooth, 2)
    out = torch.nn.functional.conv2d(smooth, filters[:12], stride=2).transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(out)
    assert (correlation - torch.eye(12)).abs().max() < 0.05
    assert torch.equal(filters[12:], -filters[:12])


def test_turned_and_other_pictures_score_higher(trained: Rotation) -> None:
    normal = scores(trained, steps(60, 1))
    assert np.median(scores(trained, np.rot90(steps(60, 2), 1, (1, 2)))) > np.quantile(normal, 0.95)
    assert np.median(scores(trained, static(60))) > np.quantile(normal, 0.95)


def test_it_says_how_well_turns_are_told(trained: Rotation) -> None:
    assert trained.accuracy(torch.from_numpy(steps(40, 3))) > 0.9
    assert "say little" not in str(trained.remark(torch.from_numpy(steps(40, 3))))


def test_it_says_when_turning_means_nothing() -> None:
    noise = static(200)
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    loop.train(model, noise[:160], TRAINING, torch.device("cpu"))
    assert "prefer another" in str(model.remark(torch.from_numpy(noise[160:])))


def test_the_bank_holds_unit_features_of_at_most_so_many_images(trained: Rotation) -> None:
    assert trained.bank.shape == (60, 4, 16)
    assert trained.middle_bank.shape == (60, 4, 4 * 8)
    for bank in (trained.bank, trained.middle_bank):
        torch.testing.assert_close(bank.norm(dim=2), torch.ones(60, 4))


def test_quarters_are_the_means_of_a_maps_quarters() -> None:
    batch = torch.randn(2, 3, 7, 7)
    expected = torch.nn.functional.adaptive_avg_pool2d(batch, 2)  # (N, C, 2, 2)
    torch.testing.assert_close(quadrant_means(batch), expected.permute(0, 2, 3, 1).flatten(1))


def test_a_picture_of_the_bank_has_a_finite_score() -> None:
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    same = steps(1, 0)[np.zeros(10, dtype=np.intp)]
    loop.train(model, same, TrainingSettings(epochs=1), torch.device("cpu"))
    assert isinstance(model, Rotation)
    assert np.isfinite(scores(model, same)).all()
