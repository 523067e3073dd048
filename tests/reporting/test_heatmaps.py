"""Heatmaps on the calibrated scale."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.ImageFilter import MaxFilter, MinFilter

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.conformal.ranks import conformal_rank
from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize_map
from oddlens.detector.detector import Detector
from oddlens.reporting import heatmaps

GREY = np.full((40, 60, 1), 120, dtype=np.uint8)


def test_an_image_below_the_threshold_is_unchanged() -> None:
    calm = np.full((40, 60), 0.89, dtype=np.float32)
    assert (heatmaps.overlay(GREY, calm, 1.0, 255) == 120).all()


def test_a_color_depends_only_on_the_evidence_at_its_pixel() -> None:
    values = np.zeros((40, 60), dtype=np.float32)
    values[:, :10] = 0.95
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


@pytest.mark.parametrize("shape", [(40, 60), (7, 1000), (900, 30), (1, 1)])
def test_the_outline_is_that_of_filters_over_the_whole_picture(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """White where the largest value around a pixel is above the threshold, black where the smallest is not."""
    monkeypatch.setattr(heatmaps, "STRIP_PIXELS", 200)
    values = resize_map(rng.gamma(0.6, 1, (5, 5)), *shape)
    values[0, 0] = 0.9
    image = np.full((*shape, 1), 120, dtype=np.uint8)
    above = Image.fromarray(values > 1).convert("L")
    width = 2 * max(1, round(max(shape) / 400)) + 1
    largest, smallest = (np.asarray(above.filter(rank(width))) > 0 for rank in (MaxFilter, MinFilter))
    expected = heatmaps.overlay(image, values, 1.0, 255, outlined=False)
    expected[largest & (values <= 1)] = 255
    expected[~smallest & (values > 1)] = 0
    assert np.array_equal(heatmaps.overlay(image, values, 1.0, 255), expected)


def test_a_picture_does_not_depend_on_the_strips_in_which_it_is_blended(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    image = rng.integers(0, 4096, (130, 170, 3), dtype=np.uint16)
    values = rng.gamma(0.6, 1, (13, 17)).astype(np.float32)
    whole = heatmaps.overlay(image, values, 1.0, 4095)
    monkeypatch.setattr(heatmaps, "STRIP_PIXELS", 500)
    difference = np.abs(whole.astype(int) - heatmaps.overlay(image, values, 1.0, 4095))
    assert difference.max() <= 1


@pytest.mark.parametrize("factor", [0, 1.5])
def test_an_overlay_takes_a_few_bytes_for_each_pixel(factor: float, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (2000, 3000, 3), dtype=np.uint8)
    values = np.full((20, 30), factor, dtype=np.float32)
    values[5:9, 5:9] = 2
    tracemalloc.start()
    try:
        heatmaps.overlay(image, values, 1.0, 255)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2000 * 3000, "three for the picture, one for the grey image, one for the region, and strips"


@pytest.mark.parametrize(("value_max", "dtype"), [(255, np.uint8), (4095, np.uint16), (65535, np.uint16)])
def test_grey_levels_are_the_mean_of_the_channels_on_the_scale_of_the_image(value_max: int, dtype: type) -> None:
    levels: npt.NDArray[Any] = np.arange(value_max + 1).astype(dtype).reshape(16, -1)
    grey = heatmaps.grey_levels(levels[..., None], value_max)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[..., 0], levels.astype(np.int64) * 255 // value_max)
    colour = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    total = colour.astype(np.int64).sum(axis=2)
    np.testing.assert_array_equal(heatmaps.grey_levels(colour, value_max)[..., 0], total * 255 // (3 * value_max))


def test_levels_above_the_scale_of_the_detector_are_white() -> None:
    bright = np.full((4, 4, 1), 60000, dtype=np.uint16)
    assert (heatmaps.overlay(bright, np.zeros((2, 2), dtype=np.float32), 1.0, 4095) == 255).all()


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
    assert (scale[:, :90] == 128).all(), "no colour below 0.9 times the threshold"
    assert (scale[0, 100, 0] > scale[0, 100, 2] + 50) & (scale[0, 100, 1] > scale[0, 100, 2] + 50), (
        "yellow at the threshold"
    )
    assert scale[0, -1, 0] > 180
    assert scale[0, -1, 1:].max() < 60
