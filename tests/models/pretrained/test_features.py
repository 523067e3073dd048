"""The features family: other objects are told from the normal one, in either orientation where mirrors are learned."""

from __future__ import annotations

import numpy as np
import pytest
from disc_images import part_images
from pretrained_extra import needs_pretrained

from oddlens import metrics
from oddlens.config.detectors import FeaturesSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector

pytestmark = needs_pretrained
SETTINGS = FeaturesSettings(depths=(4, 7), side=64)


def half_images(count: int, seed: int) -> Pixels:
    """Parts whose right half is dark."""
    images = part_images(count, seed)
    images[:, :, 32:] //= 3
    return images


def test_other_objects_are_told_from_the_normal_one() -> None:
    detector = Detector(SETTINGS).fit(part_images(150, 0))
    scores = detector.score(np.concatenate([part_images(50, 1), half_images(50, 1)]))
    assert metrics.auroc(np.repeat([0, 1], 50), scores) == 1.0


@pytest.mark.parametrize("mirror", [True, False])
def test_mirrored_images_are_normal_where_they_are_learned(mirror: bool) -> None:
    detector = Detector(SETTINGS.model_copy(update={"mirror": mirror})).fit(half_images(150, 0))
    alarms = detector.predict(half_images(50, 1)[:, :, ::-1].copy()).label.mean()
    assert alarms <= 0.1 if mirror else alarms >= 0.9
