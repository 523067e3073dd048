"""Calibration: which images may take part, and what stays the same when it is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_family import nearest_family

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import DictionarySettings, FamilySettings
from oddlens.config.manifest import DataSummary
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector import calibration, feedback
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import CalibrationError, DataError, SettingsError, StateError

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


def striped(count: int, copies: int, seed: int = 0) -> Pixels:
    """Photographs (count * copies, 12, 12, 1) of parts, each part several times with a little noise."""
    rng = np.random.default_rng(seed)
    parts = rng.integers(0, 256, (count, 12, 12, 1))
    noisy = np.repeat(parts, copies, axis=0) + rng.normal(0, 3, (count * copies, 12, 12, 1))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture
def nearest() -> Iterator[FamilySettings]:
    with nearest_family() as settings:
        yield settings


def test_near_duplicates_count_once_and_each_image_where_that_is_requested(tmp_path: Path) -> None:
    model, images = DictionarySettings(atoms=10), striped(60, 4)
    detector = Detector(model).fit(images)
    data, decision = detector.manifest.data, detector.decision_
    assert (data.count_by, data.n_calibration, decision.calibration.count) == ("group", 72, 18)
    assert decision.false_alarm_rate == pytest.approx(1 / 19)
    by_image = Detector(model).fit(images, count_by="image")
    assert by_image.manifest.data.count_by == "image"
    assert not by_image.decision_.calibration.is_clustered
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    assert loaded.decision_.calibration.count == 18
    assert loaded.decision_.threshold == decision.threshold
    assert calibration.default_rate_cost(data, detector.decisions_) == (
        "1% takes 99 calibration groups of near-duplicates, 81 more: --false-alarm-rate 0.01 would hold out half of "
        "the groups, if there were 198."
    )
    export(detector, tmp_path / "part.onnx")
    deployed = Detector.load(tmp_path / "part.onnx")
    assert deployed.decision_.calibration.count == 18
    assert copy.deepcopy(deployed).decision_.threshold == deployed.decision_.threshold

    recalibrated = loaded.calibrate(striped(50, 2, seed=1), decision=DecisionSettings(false_alarm_rate=0.05))
    assert recalibrated.decision_.calibration.count == 50
    recalibrated.calibrate(striped(10, 3, seed=2), add=True)
    assert recalibrated.decision_.calibration.count == 60
    assert recalibrated.manifest.data.n_calibration == 130
    with pytest.raises(StateError, match="counted by group, so that images counted by image cannot be added"):
        recalibrated.calibrate(striped(10, 3, seed=3), add=True, count_by="image")
    enough = Detector(model).fit(striped(220, 2))
    assert calibration.default_rate_cost(enough.manifest.data, enough.decisions_) == (
        "1% takes 99 calibration groups of near-duplicates, 33 more: --false-alarm-rate 0.01 would hold out 99 of "
        "about 220 groups."
    )
    single = recalibrated.calibrate(striped(40, 2, seed=4), count_by="image")
    single.calibrate(striped(10, 3, seed=2), add=True)
    assert single.decision_.calibration.count == single.manifest.data.n_calibration == 110


def test_each_group_of_images_counts_its_own_near_duplicates(tmp_path: Path) -> None:
    images = replace(ImageSet.from_array(striped(120, 3)), groups=("left",) * 180 + ("right",) * 180)
    detector = Detector(DictionarySettings(atoms=10)).fit(images)
    parts = Detector.load(detector.save(tmp_path / "part.safetensors")).decisions_.parts
    assert {name: (len(part.calibration), part.calibration.count) for name, part in parts.items()} == {
        "left": (54, 18), "right": (54, 18),
    }  # fmt: skip
    cost = calibration.default_rate_cost(detector.manifest.data, detector.decisions_)
    assert cost == "1% takes 99 calibration groups of near-duplicates for each threshold, 81 of left, 81 of right more."


def test_leave_one_out_trains_and_calibrates_on_all_images(nearest: FamilySettings, tmp_path: Path) -> None:
    images = striped(120, 1)
    detector = Detector(nearest).fit(images)
    data, scores = detector.manifest.data, detector.decision_.calibration_scores
    assert (data.n_training, data.n_calibration, data.calibration) == (120, 120, "leave_one_out")
    pixels = images.astype(float).reshape(120, -1) / 255
    distances = np.square(pixels[:, None] - pixels).mean(axis=2) + np.where(np.eye(120), np.inf, 0)
    np.testing.assert_allclose(scores, np.sort(distances.min(axis=1)), rtol=1e-4)
    np.testing.assert_array_equal(scores, detector.tensors["training.scores"])
    assert len(detector.tensors["calibration.map_peaks"]) == 120
    assert detector.decision_.false_alarm_rate == 0.01
    assert detector.decision_.threshold == scores[-1]
    assert calibration.default_rate_cost(data, detector.decisions_) is None
    few = Detector(nearest).fit(images[:80])
    assert (
        calibration.default_rate_cost(few.manifest.data, few.decisions_) == "1% takes 99 calibration images, 19 more."
    )

    export(detector, tmp_path / "part.onnx")
    for path in (detector.save(tmp_path / "part.safetensors"), tmp_path / "part.onnx"):
        loaded = Detector.load(path)
        assert loaded.decision_.promise() == detector.decision_.promise()
        assert "leave-one-out" in loaded.decision_.promise()
        loaded.set_decision(DecisionSettings(method="train_percentile"))
        with pytest.raises(SettingsError, match="leave-one-out guarantees a rate on average only"):
            loaded.set_decision(DecisionSettings(confidence=0.9))
        with pytest.raises(StateError, match="by leave-one-out takes no further images"):
            loaded.calibrate(striped(50, 1, seed=1), add=True)
        loaded.calibrate(striped(50, 1, seed=1), decision=DecisionSettings())
        assert loaded.decision_.scheme.is_held_out
        assert loaded.manifest.data.calibration == "held_out"
    held_out = Detector(nearest).fit(images, calibration="held_out").manifest.data
    assert (held_out.n_training, held_out.n_calibration, held_out.calibration) == (84, 36, "held_out")


def test_leave_one_out_leaves_near_duplicates_out_together(nearest: FamilySettings) -> None:
    images = striped(60, 4)
    by_group = Detector(nearest).fit(images).decision_
    by_image = Detector(nearest).fit(images, count_by="image").decision_
    assert (len(by_group.calibration), by_group.calibration.count) == (240, 60)
    assert not by_image.calibration.is_clustered
    assert by_group.calibration_scores.min() > 20 * by_image.calibration_scores.max()
    new = Detector(nearest).fit(images).predict(striped(100, 1, seed=1))
    assert new.label.mean() <= 0.1  # the guarantee is 1/61
    assert "groups of near-duplicates" in by_group.promise()


def test_a_rate_that_leave_one_out_cannot_guarantee_is_refused_before_training(
    nearest: FamilySettings, tmp_path: Path
) -> None:
    detector = Detector(nearest, decision=DecisionSettings(false_alarm_rate=0.01))
    with pytest.raises(CalibrationError, match=r"90 normal images \(leave-one-out\) can guarantee .* 1% needs 99: add"):
        detector.fit(striped(90, 1), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_leaves_no_image_out_of_a_calibration_by_leave_one_out(nearest: FamilySettings) -> None:
    assert Detector(nearest, budget=0.5).fit(striped(700, 1)).manifest.data.n_calibration == 700


@pytest.mark.parametrize(("count", "sentence"), [
    (209, "1% takes 99 calibration images, 37 more: --false-alarm-rate 0.01 would hold out 99 of the 209 images."),
    (150, "1% takes 99 calibration images, 54 more: --false-alarm-rate 0.01 would hold out half of the images, if "
          "there were 198."),
])  # fmt: skip
def test_fit_says_what_one_percent_costs(count: int, sentence: str) -> None:
    detector = Detector(DictionarySettings(atoms=10)).fit(striped(count, 1))
    assert calibration.default_rate_cost(detector.manifest.data, detector.decisions_) == sentence
    detector.set_decision(DecisionSettings(false_alarm_rate=0.2))
    assert calibration.default_rate_cost(detector.manifest.data, detector.decisions_) is None


@pytest.mark.parametrize("parameter", [{"count_by": "part"}, {"calibration": "held-out"}])
def test_an_unknown_way_to_calibrate_is_refused_before_training(
    parameter: dict[str, Any], tmp_path: Path, saved: Path
) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(parameter))} must be one of .*, got '"):
        Detector(DictionarySettings(atoms=10)).fit(striped(40, 1), folder=tmp_path, **parameter)
    assert list(tmp_path.iterdir()) == []
    if "count_by" in parameter:
        with pytest.raises(SettingsError, match="count_by must be one of image, group, got 'part'"):
            Detector.load(saved).calibrate(striped(40, 1), **parameter)


def test_what_training_images_cannot_tell_is_refused_after_leave_one_out(nearest: FamilySettings) -> None:
    detector, new = Detector(nearest).fit(striped(120, 1)), striped(30, 1, seed=1)
    with pytest.raises(SettingsError, match="calibrated by leave-one-out: run `oddlens calibrate`"):
        detector.predict_from_scores(tuple(map(str, range(30))), detector.score(new), fdr=0.1)
    judged = ImageSet.from_array(new, label=[0] * 15 + [1] * 15)
    with pytest.raises(StateError, match="by leave-one-out takes no further images"):
        feedback.propose(detector, judged, "judged.csv")
    anomalous = judged.subset(np.arange(15, 30))
    assert feedback.propose(detector, anomalous, "judged.csv").added == 0


def test_images_of_a_single_new_part_guarantee_one_half(saved: Path) -> None:
    pixels = np.repeat(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), 20, axis=0)
    detector = Detector.load(saved).calibrate(pixels)
    assert detector.decision_.false_alarm_rate == 0.5
    assert "20 held-out normal images (counted as 1 group of near-duplicates)" in detector.decision_.promise()
    with pytest.raises(CalibrationError, match="can guarantee a false-alarm rate of 50% at best; 5% needs 19 groups"):
        detector.set_decision(DecisionSettings(false_alarm_rate=0.05))


def test_the_map_threshold_is_the_largest_value_where_the_rate_cannot_be_guaranteed() -> None:
    peaks, settings = np.arange(1.0, 100.0), DecisionSettings(false_alarm_rate=0.1)
    assert calibration.map_threshold(peaks, settings) == 90.0  # 9 of 99 are above: with one more, 10 of 100
    assert calibration.map_threshold(peaks[:5], settings) == 5.0
    assert calibration.map_threshold(peaks[:0], settings) is None


def test_each_calibration_score_has_the_brightness_of_its_image(digit_pixels: Pixels, digits: DataSet) -> None:
    detector = Detector("autoencoder", training=FAST).fit(digit_pixels)
    pixels = digits.test.load(detector.spec)
    detector.calibrate(digits.test, count_by="image")
    order = np.argsort(detector.score(digits.test), kind="stable")
    expected = pixels.mean(axis=(1, 2, 3))[order] / 255
    np.testing.assert_allclose(detector.tensors["calibration.brightness"], expected, rtol=1e-12)
    np.testing.assert_array_equal(detector.decision_.brightness, np.sort(detector.tensors["calibration.brightness"]))


def test_images_that_join_those_of_an_older_file_leave_the_brightness_unknown(
    digits_detector: Detector, digits: DataSet
) -> None:
    older = copy.copy(digits_detector)
    older._statistics = {**older._statistics, "calibration.brightness": np.empty(0)}
    older.calibrate(digits.test, add=True)
    assert len(older.tensors["calibration.brightness"]) == 0
    assert len(older.decision_.brightness) == 0
    older.calibrate(digits.test, count_by="image")
    assert len(older.decision_.brightness) == len(digits.test)


def test_each_group_of_near_duplicates_has_the_brightness_of_one_image() -> None:
    brightness, clusters = np.array([0.3, 0.3, 0.5, 0.1]), np.array([4, 4, 2, 7])
    assert calibration.one_of_each_group(brightness, clusters).tolist() == [0.1, 0.3, 0.5]
    assert calibration.one_of_each_group(brightness, np.empty(0, int)).tolist() == [0.1, 0.3, 0.3, 0.5]
    drawn = calibration.one_of_each_group(np.arange(6.0), np.array([0, 0, 0, 1, 1, 1]))
    assert len(drawn) == 2
    assert drawn[0] < 3 <= drawn[1]
