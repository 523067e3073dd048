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
from oddlens.models.defect_segmentation import DefectSegmentation, mirrored, surroundings
from oddlens.models.registry import build
from oddlens.training.loop import train

SMALL = DefectsSettings(widths=(16, 16, 32))
BRIEF = TrainingSettings(epochs=12, epoch_images=128, batch_size=16, learning_rate=5e-3, schedule="one_cycle")


def stripes(count: int, seed: int, side: int = 32) -> Pixels:
    """Soft stripes at random places, under random light."""
    rng, x = np.random.default_rng(seed), np.arange(side)
    place, light = rng.uniform(0, 6, (count, 1, 1)), rng.uniform(70, 150, (count, 1, 1))
    noise = rng.normal(0, 2, (count, side, side))
    pixels: Pixels = np.rint(light * (1 + 0.2 * np.sin(x + place)) + noise).astype(np.uint8)[..., None]
    return pixels


def punctured(pixels: Pixels, seed: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """A dark square in each picture, and where it is."""
    damaged, masks = pixels.copy(), np.zeros(pixels.shape[:3], dtype=bool)
    for i, (top, left) in enumerate(np.random.default_rng(seed).integers(2, 24, (len(pixels), 2))):
        masks[i, top : top + 6, left : left + 6] = True
        damaged[i][masks[i]] //= 2
    return damaged, masks


def made(settings: DefectsSettings = SMALL, **spec: int) -> DefectSegmentation:
    model = build(settings, InputSpec.model_validate({"height": 32, "width": 32, "channels": 1, **spec}), seed=0)
    assert isinstance(model, DefectSegmentation)
    return model


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector(SMALL, training=BRIEF).fit(stripes(160, 0), hold_out=False)


def test_holes_are_found_and_marked_where_they_are(fitted: Detector) -> None:
    good = stripes(40, 1)
    bad, masks = punctured(good, 2)
    normal, odd = fitted.score(good), fitted.score(bad)
    assert (odd[:, None] > normal).mean() > 0.95
    (outputs,) = fitted.iter_predictions(bad)
    assert outputs.anomaly_map is not None
    inside = np.array([place[mask].mean() for place, mask in zip(outputs.anomaly_map, masks, strict=True)])
    outside = np.array([place[~mask].mean() for place, mask in zip(outputs.anomaly_map, masks, strict=True)])
    assert (inside > 2 * outside).mean() > 0.9


def test_scores_keep_their_order_far_out(fitted: Detector) -> None:
    good = stripes(300, 3)
    scores = np.concatenate([fitted.score(good), fitted.score(punctured(good, 4)[0])])
    assert len(np.unique(scores)) >= 0.9 * len(scores)
    assert (scores > 0).all()


def test_half_of_each_batch_stays_clean() -> None:
    model = made()
    batch = model.scale(torch.from_numpy(stripes(8, 0)))
    torch.manual_seed(0)
    damaged, masks = model.damage(batch)
    assert torch.equal(damaged[1::2], batch[1::2])
    assert not masks[1::2].any()
    assert masks[::2].any(dim=(1, 2)).all()
    assert (damaged[::2] != batch[::2]).any(dim=(1, 2, 3)).all()


def test_every_step_makes_fresh_defects_and_a_seed_the_same_ones() -> None:
    model = made()
    batch = model.scale(torch.from_numpy(stripes(8, 0)))
    torch.manual_seed(0)
    first, second = model.damage(batch)[0], model.damage(batch)[0]
    torch.manual_seed(0)
    assert torch.equal(first, model.damage(batch)[0])
    assert not torch.equal(first, second)


def test_defects_outside_the_region_are_not_asked_for() -> None:
    model = made()
    roi = np.zeros((32, 32), dtype=bool)
    roi[:, :16] = True
    model.set_roi(roi)
    torch.manual_seed(0)
    damaged, masks = model.damage(model.scale(torch.from_numpy(stripes(64, 0))))
    assert not masks[:, :, 16:].any()
    assert not damaged[..., 16:].any()


@pytest.mark.parametrize("size", [(4, 4), (4, 31), (9, 6), (20, 48)])
@pytest.mark.parametrize(("channels", "value_max"), [(1, 255), (3, 4095), (1, 65535)])
def test_two_blank_pictures_of_any_size_can_be_learnt_from(
    size: tuple[int, int], channels: int, value_max: int
) -> None:
    model = made(DefectsSettings(), height=size[0], width=size[1], channels=channels, value_max=value_max)
    pixels = np.zeros((2, *size, channels), dtype=model.spec.dtype)
    history = train(model, pixels, TrainingSettings(epochs=1), torch.device("cpu"))
    assert np.isfinite(history[0]["loss"])
    with torch.no_grad():
        scored = model(model.scale(torch.from_numpy(pixels)))
    assert scored.anomaly_map.shape == (2, *size)
    assert torch.isfinite(scored.anomaly_score).all()


def test_large_pictures_have_more_levels_than_small_ones() -> None:
    assert [len(made(DefectsSettings(), height=side, width=side).down) for side in (4, 16, 64, 256)] == [0, 1, 3, 4]


def test_mirroring_gives_all_four_versions_of_a_picture() -> None:
    torch.manual_seed(0)
    picture = torch.arange(6.0).reshape(1, 1, 2, 3)
    versions = {tuple(one.flatten().tolist()) for one in mirrored(picture.repeat(50, 1, 1, 1))}
    flips: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
    assert versions == {tuple(picture.flip(flip).flatten().tolist()) for flip in flips}


def test_the_surroundings_of_an_even_picture_are_the_picture() -> None:
    even = torch.full((2, 3, 8, 12), 0.25)
    assert torch.allclose(surroundings(even), even)


def test_a_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    pixels, device = stripes(32, 0), torch.device("cpu")
    even = BRIEF.model_copy(update={"epochs": 2, "schedule": "constant"})
    whole, parts = made(), made()
    train(whole, pixels, even, device)
    train(parts, pixels, even.model_copy(update={"epochs": 1}), device, folder=tmp_path)
    parts = made()
    train(parts, pixels, even, device, folder=tmp_path, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
