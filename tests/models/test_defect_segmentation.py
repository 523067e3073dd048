"""The defects family: synthetic defects, scores and maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import DefectsSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.models.defect_segmentation import DefectSegmentation, random_flip, surroundings_mean
from oddlens.models.registry import build
from oddlens.training.loop import train

SMALL = DefectsSettings(widths=(16, 16, 32))
BRIEF = TrainingSettings(epochs=12, epoch_images=128, batch_size=16, learning_rate=5e-3, schedule="one_cycle")


def stripes(count: int, seed: int, side: int = 32) -> Pixels:
    """Smooth stripes of random phase and brightness."""
    rng, x = np.random.default_rng(seed), np.arange(side)
    place, light = rng.uniform(0, 6, (count, 1, 1)), rng.uniform(70, 150, (count, 1, 1))
    noise = rng.normal(0, 2, (count, side, side))
    pixels: Pixels = np.rint(light * (1 + 0.2 * np.sin(x + place)) + noise).astype(np.uint8)[..., None]
    return pixels


def with_squares(pixels: Pixels, seed: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Images with a dark square each, and the masks of the squares."""
    defective, masks = pixels.copy(), np.zeros(pixels.shape[:3], dtype=bool)
    for i, (top, left) in enumerate(np.random.default_rng(seed).integers(2, 24, (len(pixels), 2))):
        masks[i, top : top + 6, left : left + 6] = True
        defective[i][masks[i]] //= 2
    return defective, masks


def build_model(settings: DefectsSettings = SMALL, **spec: int) -> DefectSegmentation:
    model = build(settings, InputSpec.model_validate({"height": 32, "width": 32, "channels": 1, **spec}), seed=0)
    assert isinstance(model, DefectSegmentation)
    return model


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(SMALL, training=BRIEF).fit(stripes(160, 0), hold_out=False)


def test_defects_are_detected_and_located(detector: Detector) -> None:
    good = stripes(40, 1)
    bad, masks = with_squares(good, 2)
    normal, defective = detector.score(good), detector.score(bad)
    assert (defective[:, None] > normal).mean() > 0.95
    (outputs,) = detector.iter_predictions(bad)
    assert outputs.anomaly_map is not None
    inside = np.array([place[mask].mean() for place, mask in zip(outputs.anomaly_map, masks, strict=True)])
    outside = np.array([place[~mask].mean() for place, mask in zip(outputs.anomaly_map, masks, strict=True)])
    assert (inside > 2 * outside).mean() > 0.9


def test_scores_of_strong_anomalies_do_not_saturate(detector: Detector) -> None:
    good = stripes(300, 3)
    scores = np.concatenate([detector.score(good), detector.score(with_squares(good, 4)[0])])
    assert len(np.unique(scores)) >= 0.9 * len(scores)
    assert (scores > 0).all()


def test_half_of_each_batch_stays_clean() -> None:
    model = build_model()
    batch = model.scale(torch.from_numpy(stripes(8, 0)))
    torch.manual_seed(0)
    defective, masks = model.add_defects(batch)
    assert torch.equal(defective[1::2], batch[1::2])
    assert not masks[1::2].any()
    assert masks[::2].any(dim=(1, 2)).all()
    assert (defective[::2] != batch[::2]).any(dim=(1, 2, 3)).all()


def test_each_step_draws_new_defects_reproducibly() -> None:
    model = build_model()
    batch = model.scale(torch.from_numpy(stripes(8, 0)))
    torch.manual_seed(0)
    first, second = model.add_defects(batch)[0], model.add_defects(batch)[0]
    torch.manual_seed(0)
    assert torch.equal(first, model.add_defects(batch)[0])
    assert not torch.equal(first, second)


def test_defects_outside_the_region_of_interest_are_ignored() -> None:
    model = build_model()
    roi = np.zeros((32, 32), dtype=bool)
    roi[:, :16] = True
    model.set_roi(roi)
    torch.manual_seed(0)
    defective, masks = model.add_defects(model.scale(torch.from_numpy(stripes(64, 0))))
    assert not masks[:, :, 16:].any()
    assert not defective[..., 16:].any()


@pytest.mark.parametrize("size", [(4, 4), (4, 31), (9, 6), (20, 48)])
@pytest.mark.parametrize(("channels", "value_max"), [(1, 255), (3, 4095), (1, 65535)])
def test_any_size_can_be_trained_on_two_blank_images(size: tuple[int, int], channels: int, value_max: int) -> None:
    model = build_model(DefectsSettings(), height=size[0], width=size[1], channels=channels, value_max=value_max)
    pixels = np.zeros((2, *size, channels), dtype=model.spec.dtype)
    history = train(model, pixels, TrainingSettings(epochs=1), torch.device("cpu"))
    assert np.isfinite(history[0]["loss"])
    with torch.no_grad():
        scored = model(model.scale(torch.from_numpy(pixels)))
    assert scored.anomaly_map.shape == (2, *size)
    assert torch.isfinite(scored.anomaly_score).all()


def test_large_images_have_more_levels_than_small_ones() -> None:
    models = [build_model(DefectsSettings(), height=side, width=side) for side in (4, 16, 64, 256)]
    assert [len(model.down) for model in models] == [0, 1, 3, 4]


def test_random_flips_give_all_four_versions_of_an_image() -> None:
    torch.manual_seed(0)
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    versions = {tuple(version.flatten().tolist()) for version in random_flip(image.repeat(50, 1, 1, 1))}
    flips: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
    assert versions == {tuple(image.flip(flip).flatten().tolist()) for flip in flips}


def test_a_constant_image_equals_its_surroundings() -> None:
    constant = torch.full((2, 3, 8, 12), 0.25)
    assert torch.allclose(surroundings_mean(constant), constant)


def test_a_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    pixels, device = stripes(32, 0), torch.device("cpu")
    settings = BRIEF.model_copy(update={"epochs": 2, "schedule": "constant"})
    whole, parts = build_model(), build_model()
    train(whole, pixels, settings, device)
    train(parts, pixels, settings.model_copy(update={"epochs": 1}), device, folder=tmp_path)
    parts = build_model()
    train(parts, pixels, settings, device, folder=tmp_path, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
