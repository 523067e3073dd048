"""Calibration: which images may take part, and what stays the same when it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.manifest import DataSummary
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector import calibration
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataError, StateError

FAST = TrainingSettings(epochs=1)
DATA = DataSummary(source="x", normal="good", n_training=10, fingerprint="00")
GROUPED = DATA.model_copy(update={"groups": ("left", "right"), "grouped_by": "folder"})


def test_recalibration_changes_the_threshold_and_no_score(digit_pixels: Pixels, digits: DataSet) -> None:
    detector = Detector("autoencoder", training=FAST).fit(digit_pixels)
    before, scores = detector.decision_.threshold, detector.score(digits.test)
    detector.calibrate(digits.test, decision=DecisionSettings(false_alarm_rate=0.2))
    np.testing.assert_array_equal(detector.score(digits.test), scores)
    assert detector.decision_.threshold < before
    assert detector.predict(digits.test).label.mean() <= 0.2
    assert detector.manifest.data.n_calibration == len(digits.test)


def test_calibrating_on_training_images_is_refused(digits_detector: Detector, digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match=r"\d+ of 50 calibration images are training images, first array\["):
        digits_detector.calibrate(digit_pixels[:50])


def test_a_rate_that_cannot_be_guaranteed_is_refused_before_training(digit_pixels: Pixels, tmp_path: Path) -> None:
    detector = Detector("autoencoder", training=FAST, decision=DecisionSettings(false_alarm_rate=0.01))
    message = r"50 held-out normal images can guarantee a false-alarm rate of 2\.0% at best; 1% needs 99"
    with pytest.raises(CalibrationError, match=message):
        detector.fit(digit_pixels[:100], count_by="image", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_is_refused_leaves_the_detector_unchanged(digit_pixels: Pixels, digits: DataSet) -> None:
    detector = Detector("autoencoder", training=FAST, decision=DecisionSettings(false_alarm_rate=0.01)).fit(
        digit_pixels
    )
    threshold, manifest = detector.decision_.threshold, detector.manifest
    with pytest.raises(CalibrationError, match="50 held-out"):
        detector.calibrate(digits.test.subset(np.arange(50)))
    assert detector.decision_.threshold == threshold
    assert detector.manifest == manifest


def test_few_images_guarantee_the_lowest_rate_that_they_can(digit_pixels: Pixels) -> None:
    detector = Detector("autoencoder", training=FAST).fit(digit_pixels[:60], count_by="image")
    n = detector.manifest.data.n_calibration
    assert n == 18
    assert detector.decision_.false_alarm_rate == pytest.approx(1 / 19)
    assert "lowest rate that can be guaranteed" in detector.decision_.promise()


def test_fifty_images_guarantee_two_percent_at_best(
    digit_pixels: Pixels, digits_detector: Detector, digits: DataSet
) -> None:
    detector = Detector(digits_detector.model, training=digits_detector.training).fit(digit_pixels, hold_out=False)
    test = digits.test.load(digits.test.choose_spec(None))[:50]
    message = r"50 held-out normal images can guarantee a false-alarm rate of 2\.0% at best; 1% needs 99"
    with pytest.raises(CalibrationError, match=message):
        detector.calibrate(test, decision=DecisionSettings(false_alarm_rate=0.01), count_by="image")
    assert detector.manifest.data.n_calibration == 0


@pytest.mark.parametrize(
    ("data", "groups", "add", "message"),
    [
        (DATA.model_copy(update={"folds": 3}), (), True, "a calibration in folds takes no further images"),
        (GROUPED, (), False, r"a threshold for each group \(left, right\), and these images have no groups"),
        (DATA, ("left", "right"), True, "can only be added to a calibration by groups"),
    ],
)
def test_images_that_cannot_be_combined_with_the_calibration_are_refused(
    data: DataSummary, groups: tuple[str, ...], add: bool, message: str
) -> None:
    images = replace(ImageSet.from_array(np.zeros((2, 8, 8, 1), dtype=np.uint8)), groups=groups)
    with pytest.raises(StateError, match=message):
        calibration.check_mixing(data, images, add)


def test_images_that_fit_the_calibration_are_accepted() -> None:
    images = ImageSet.from_array(np.zeros((2, 8, 8, 1), dtype=np.uint8))
    grouped = replace(images, groups=("left", "right"))
    calibration.check_mixing(DATA, images, True)
    calibration.check_mixing(DATA, grouped, False)  # a new calibration may have groups
    calibration.check_mixing(GROUPED, grouped, True)


def test_images_count_once_in_a_calibration(saved: Path, digits: DataSet) -> None:
    detector = Detector.load(saved)
    before = detector.manifest.data.n_calibration
    for _ in range(2):
        detector.calibrate(digits.test.subset(np.arange(30)), add=True)
        assert detector.manifest.data.n_calibration == before + 30
    np.testing.assert_array_equal(detector.decision_.calibration_scores, detector.tensors["calibration.scores"])


def test_each_group_has_the_threshold_of_its_scores(saved: Path, digits: DataSet) -> None:
    detector = Detector.load(saved)
    images = digits.test.subset(np.arange(200))
    names = np.array(["left", "right"])[np.arange(200) % 2]
    detector.calibrate(replace(images, groups=tuple(names)), decision=DecisionSettings(false_alarm_rate=0.05))
    scores = detector.score(images)
    parts = detector.decisions_.parts
    assert set(parts) == {"left", "right"}
    for name, part in parts.items():
        np.testing.assert_array_equal(part.calibration_scores, np.sort(scores[names == name]))
