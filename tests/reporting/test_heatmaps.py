"""Anomaly maps on the calibrated scale."""

from __future__ import annotations

import numpy as np
import pytest

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.conformal.ranks import conformal_rank
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.reporting import heatmaps

GREY = np.full((40, 60, 1), 120, dtype=np.uint8)


def test_a_normal_picture_stays_as_it_is() -> None:
    calm = np.full((40, 60), 0.49, dtype=np.float32)
    assert (heatmaps.overlay(GREY, calm, 1.0, 255) == 120).all()


def test_the_same_evidence_has_the_same_colour_whatever_else_is_in_the_picture() -> None:
    values = np.zeros((40, 60), dtype=np.float32)
    values[:, :10] = 0.8
    alone = heatmaps.overlay(GREY, values, 1.0, 255, outlined=False)
    values[:, 30:] = 50
    crowded = heatmaps.overlay(GREY, values, 1.0, 255, outlined=False)
    assert np.array_equal(alone[:, :10], crowded[:, :10])
    assert np.array_equal(heatmaps.overlay(GREY, 7 * values, 7.0, 255), heatmaps.overlay(GREY, values, 1.0, 255))


def test_what_lies_above_the_level_is_outlined_and_nothing_else() -> None:
    values = np.full((40, 60), 0.9, dtype=np.float32)
    values[10:20, 10:30] = 1.5
    plain, drawn = (heatmaps.overlay(GREY, values, 1.0, 255, outlined=outlined) for outlined in (False, True))
    changed = (plain != drawn).any(axis=2)
    assert changed[9, 10:30].all()
    assert (drawn[9, 10:30] == 255).all()
    assert (drawn[10, 10:30] == 0).all()
    assert not changed[12:18, 12:28].any()
    assert not changed[:8].any()
    assert not changed[:, 33:].any()


def test_the_level_is_what_normal_images_keep_to(digit_pixels: Pixels) -> None:
    small = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(small, training=TrainingSettings(epochs=1)).fit(digit_pixels[:700])
    peaks = np.sort(detector.tensors["calibration.map_peaks"])
    rate = detector.decision_.false_alarm_rate
    assert detector.map_threshold == peaks[conformal_rank(len(peaks), rate) - 1]
    maps = [outputs.anomaly_map for outputs in detector.iter_predictions(digit_pixels[700:])]
    new = np.concatenate([each.max(axis=(1, 2)) for each in maps if each is not None])
    assert (new > detector.map_threshold).mean() == pytest.approx(rate, abs=0.02)
