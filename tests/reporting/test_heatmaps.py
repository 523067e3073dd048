"""Heatmaps on the calibrated scale."""

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


def test_an_image_far_below_the_threshold_is_unchanged() -> None:
    calm = np.full((40, 60), 0.49, dtype=np.float32)
    assert (heatmaps.overlay(GREY, calm, 1.0, 255) == 120).all()


def test_a_color_depends_only_on_the_evidence_at_its_pixel() -> None:
    values = np.zeros((40, 60), dtype=np.float32)
    values[:, :10] = 0.8
    alone = heatmaps.overlay(GREY, values, 1.0, 255, outlined=False)
    values[:, 30:] = 50
    crowded = heatmaps.overlay(GREY, values, 1.0, 255, outlined=False)
    assert np.array_equal(alone[:, :10], crowded[:, :10])
    assert np.array_equal(heatmaps.overlay(GREY, 7 * values, 7.0, 255), heatmaps.overlay(GREY, values, 1.0, 255))


def test_only_regions_above_the_threshold_are_outlined() -> None:
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


def test_normal_images_exceed_the_map_threshold_at_the_false_alarm_rate(digit_pixels: Pixels) -> None:
    small = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(small, training=TrainingSettings(epochs=1)).fit(digit_pixels[:700])
    peaks = np.sort(detector.tensors["calibration.map_peaks"])
    rate = detector.decision_.false_alarm_rate
    assert detector.map_threshold == peaks[conformal_rank(len(peaks), rate) - 1]
    maps = [outputs.anomaly_map for outputs in detector.iter_predictions(digit_pixels[700:])]
    new = np.concatenate([anomaly_map.max(axis=(1, 2)) for anomaly_map in maps if anomaly_map is not None])
    assert (new > detector.map_threshold).mean() == pytest.approx(rate, abs=0.02)


def test_the_color_scale_goes_from_grey_to_red() -> None:
    scale = heatmaps.color_scale(201, 5)
    assert scale.shape == (5, 201, 3)
    assert (scale[:, :50] == 128).all(), "no colour below half of the threshold"
    assert (scale[0, 100, 0] > scale[0, 100, 2] + 50) & (scale[0, 100, 1] > scale[0, 100, 2] + 50), (
        "yellow at the threshold"
    )
    assert scale[0, -1, 0] > 180
    assert scale[0, -1, 1:].max() < 60
