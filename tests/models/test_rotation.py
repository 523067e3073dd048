"""The transforms family: rotations, scores, and the remark on images that look alike when rotated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import RotationSettings
from oddlens.data.image_io import Pixels
from oddlens.models import registry
from oddlens.models.rotation import MIDDLE_WEIGHT, Rotation, quadrant_means, random_shift, rotations, whitening_filters
from oddlens.training import loop

SETTINGS = RotationSettings(side=16, widths=(8, 8, 16), bank=60, mirror=False)
TRAINING = TrainingSettings(epochs=10, batch_size=32, optimizer="muon", schedule="linear")


def noise_images(count: int) -> Pixels:
    """Noise, which looks the same when rotated."""
    pixels: Pixels = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 1), dtype=np.uint8)
    return pixels


def stairs(count: int, seed: int) -> Pixels:
    """Images (N, 16, 16, 1) of stairs that descend to the right, at different places and brightness."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 50, (count, 16, 16, 1), dtype=np.uint8)
    for image in pixels:
        top, left, light = rng.integers(0, 4), rng.integers(0, 4), rng.integers(120, 220)
        for step in range(4):
            image[top + 3 * step : top + 3 * step + 3, left : left + 3 * (step + 1)] = light
    return pixels


@pytest.fixture(scope="module")
def rotation_model() -> Rotation:
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    loop.train(model, stairs(240, 0), TRAINING, torch.device("cpu"))
    assert isinstance(model, Rotation)
    return model


def scores(model: Rotation, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(np.ascontiguousarray(pixels)))
        anomaly_scores: np.ndarray = model(batch).anomaly_score.numpy()
        return anomaly_scores


def test_rotations_match_rot90() -> None:
    batch = torch.arange(2 * 9.0).reshape(2, 1, 3, 3)
    for quarter, view in enumerate(rotations(batch)):
        assert torch.equal(view, torch.rot90(batch, quarter, (2, 3)))


def test_images_are_shifted_by_at_most_max_shift() -> None:
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


def test_rotated_and_other_images_score_higher(rotation_model: Rotation) -> None:
    normal = scores(rotation_model, stairs(60, 1))
    assert np.median(scores(rotation_model, np.rot90(stairs(60, 2), 1, (1, 2)))) > np.quantile(normal, 0.95)
    assert np.median(scores(rotation_model, noise_images(60))) > np.quantile(normal, 0.95)


def test_the_remark_reports_a_high_accuracy(rotation_model: Rotation) -> None:
    images = torch.from_numpy(stairs(40, 3))
    accuracy, chance = rotation_model.pretext_accuracy(images)
    assert accuracy > 0.9
    assert chance == 0.25
    remark = str(rotation_model.remark(images))
    assert f"{accuracy:.0%} accuracy" in remark
    assert "of little use" not in remark


def test_the_remark_warns_when_rotations_look_alike() -> None:
    noise = noise_images(200)
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    loop.train(model, noise[:160], TRAINING, torch.device("cpu"))
    assert "of little use" in str(model.remark(torch.from_numpy(noise[160:])))


def test_the_banks_contain_unit_features_of_at_most_bank_images(rotation_model: Rotation) -> None:
    assert rotation_model.bank.shape == (60, 4, 16)
    assert rotation_model.middle_bank.shape == (60, 4, 4 * 8)
    for bank in (rotation_model.bank, rotation_model.middle_bank):
        torch.testing.assert_close(bank.norm(dim=2), torch.ones(60, 4))


def test_quadrant_means_equal_adaptive_pooling() -> None:
    batch = torch.randn(2, 3, 7, 7)
    expected = torch.nn.functional.adaptive_avg_pool2d(batch, 2)  # (N, C, 2, 2)
    torch.testing.assert_close(quadrant_means(batch), expected.permute(0, 2, 3, 1).flatten(1))


def test_images_of_the_bank_have_finite_scores() -> None:
    model = registry.build(SETTINGS, InputSpec(height=16, width=16, channels=1), 0)
    same = stairs(1, 0)[np.zeros(10, dtype=np.intp)]
    loop.train(model, same, TrainingSettings(epochs=1), torch.device("cpu"))
    assert isinstance(model, Rotation)
    assert np.isfinite(scores(model, same)).all()


def test_with_one_scored_rotation_only_the_image_as_it_is_counts(rotation_model: Rotation) -> None:
    upright = registry.build(
        SETTINGS.model_copy(update={"scored_rotations": 1}), InputSpec(height=16, width=16, channels=1), 0
    )
    assert isinstance(upright, Rotation)
    weights = rotation_model.state_dict()
    weights |= {name: weights[name][:, :1] for name in ("bank", "middle_bank")}
    upright.load_weights(weights)
    images = stairs(10, 1)
    expected = []
    with torch.inference_mode():
        deep, middle, logits = rotation_model.views(rotation_model.scale(torch.from_numpy(images)))
        for features, bank, weight in (
            (deep, rotation_model.bank, 1.0),
            (middle, rotation_model.middle_bank, MIDDLE_WEIGHT),
        ):
            unit = torch.nn.functional.normalize(features, dim=2)
            expected.append(weight * rotation_model.log_distance(unit, bank)[:, 0])
        surprise = -logits.log_softmax(dim=2)[:, 0, 0]
    total = expected[0] + expected[1] + SETTINGS.surprise * surprise
    np.testing.assert_allclose(scores(upright.eval(), images), total.exp().numpy(), rtol=1e-4)
