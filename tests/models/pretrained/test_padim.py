"""The padim family: light may vary within limits, and the map shows where an image differs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from disc_images import part_images
from pretrained_extra import needs_pretrained

from oddlens.config.detectors import PadimSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.models.layers import squareplus
from oddlens.models.pretrained.padim import FINE_MARGIN, FINE_WEIGHT, Padim

pytestmark = needs_pretrained
SHALLOW = PadimSettings(depths=(2,), map_depths=(2,), side=64)


def test_the_map_is_highest_where_an_image_differs() -> None:
    detector = Detector(SHALLOW).fit(part_images(60, 0))
    images = part_images(5, 1)
    images[:, 40:48, 8:16] = 200
    (batch,) = detector.iter_predictions(images)
    assert batch.anomaly_map is not None
    for anomaly_map in batch.anomaly_map:
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        assert 36 <= row < 52
        assert 4 <= column < 20


def test_light_that_varies_a_little_makes_no_part_anomalous() -> None:
    varies = Detector(SHALLOW).fit(part_images(150, 0))
    fixed = Detector(SHALLOW.model_copy(update={"light": "fixed"})).fit(part_images(150, 0))
    darker = part_images(60, 1, gain=0.93)
    assert varies.predict(darker).label.mean() <= 0.1
    assert fixed.predict(darker).label.mean() >= 0.5


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_images_are_anomalous_although_light_varies(value: int) -> None:
    detector = Detector(SHALLOW).fit(part_images(150, 0))
    assert detector.predict(np.full((1, 64, 64, 1), value, np.uint8)).label.all()


@pytest.mark.parametrize("gain", [0.4, 1.7])
def test_far_darker_and_brighter_images_are_anomalous_although_light_varies(gain: float) -> None:
    detector = Detector(SHALLOW).fit(part_images(150, 0))
    assert detector.predict(part_images(10, 1, gain)).label.all()


def test_depths_of_the_map_alone_keep_a_part_of_the_mean_features() -> None:
    """The map alone differs, and by half of the mean less than by all of it."""
    settings = PadimSettings(depths=(4,), map_depths=(2, 4), side=64)
    images, results = part_images(5, 1, gain=0.8), []
    for share in (1.0, 0.5, 0.0):
        detector = Detector(settings.model_copy(update={"map_mean_share": share})).fit(part_images(60, 0))
        (batch,) = detector.iter_predictions(images)
        assert batch.anomaly_map is not None
        results.append((batch.anomaly_score, batch.anomaly_map.mean()))
    (whole, half, none), maps = zip(*results, strict=True)
    np.testing.assert_array_equal(whole, half)
    np.testing.assert_array_equal(whole, none)
    assert maps[0] < maps[1] < maps[2]  # all are darker, which the mean features show most


def test_the_score_of_finer_defects_counts_where_it_is_larger_by_the_margin() -> None:
    settings = PadimSettings(depths=(4,), map_depths=(4,), fine_depths=(2,), side=64)
    model = Detector(settings).fit(part_images(100, 0)).network
    assert isinstance(model, Padim)
    assert model.distance_scale is not None
    assert model.fine_scale is not None
    images = part_images(40, 1)
    images[20:, 30:33, 30:33] -= 40
    with torch.inference_mode():
        batch = model.scale(torch.from_numpy(images))
        features = model.describe(batch)
        maps = [gaussian(values) for gaussian, values in zip(model.gaussians, features, strict=True)]
        coarse = model.distance_scale(model.top_distance(maps, model.scored, 5.0))
        fine = model.fine_scale(model.top_distance(maps, model.fine, 1.0))
        score = model(batch).anomaly_score
    weighted = FINE_WEIGHT * fine - FINE_MARGIN
    assert (coarse > weighted)[:20].any()
    assert (weighted > coarse)[20:].any()
    torch.testing.assert_close(score, squareplus(torch.maximum(coarse, weighted)))
    for values in (coarse, fine):  # of left-out images: on one scale
        assert abs(float(values[:20].mean())) < 1.0


def enlarged(images: Pixels) -> Pixels:
    """Images (N, 192, 192, 1) of three times the size."""
    return images.repeat(3, axis=1).repeat(3, axis=2)


@pytest.mark.parametrize("light", ["varies", "fixed"])
def test_parts_that_lie_a_little_differently_are_normal_if_shifted_copies_are_learned(
    light: Literal["varies", "fixed"],
) -> None:
    images, shifted = enlarged(part_images(150, 0)), np.roll(enlarged(part_images(60, 1)), 3, axis=2)
    settings = PadimSettings(depths=(4,), map_depths=(4,), light=light)
    fixed, varying = (Detector(settings.model_copy(update={"shift": shift})).fit(images) for shift in (0, 3))
    assert fixed.predict(shifted).label.mean() > 0.5
    assert varying.predict(shifted).label.mean() < 0.3
