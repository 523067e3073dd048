"""Detector: fit, calibrate, score, predict; steps out of order and unusable images are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.data.near_duplicates import fingerprints, near_duplicate_groups, thumbnails
from oddlens.data.splitting import split_normals
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataError, ImageError, SettingsError, StateError

FAST = TrainingSettings(epochs=1)


def test_steps_out_of_order_say_which_step_is_missing(digit_pixels: Pixels) -> None:
    for step in ("score", "predict", "calibrate"):
        with pytest.raises(StateError, match="call fit"):
            getattr(Detector(), step)(digit_pixels[:5])
    trained = Detector("autoencoder", training=FAST).fit(digit_pixels[:150], hold_out=False)
    assert np.isfinite(trained.score(digit_pixels[:5])).all()
    with pytest.raises(StateError, match="calibrate"):
        trained.predict(digit_pixels[:5])


def test_fit_holds_out_what_it_calibrates_on(fitted: Detector, digit_pixels: Pixels) -> None:
    seen, held = fitted.fingerprints("training"), fitted.fingerprints("calibration")
    assert len(seen) + len(held) == len(digit_pixels)
    assert len(held) >= 99
    data = fitted.manifest.data
    assert (data.n_training, data.n_calibration) == (len(seen), len(held))
    assert sorted([*seen.tolist(), *held.tolist()]) == sorted(fingerprints(digit_pixels).tolist())


def test_verdicts_keep_the_order_and_the_chosen_rate(fitted: Detector, digits: DataSet) -> None:
    verdicts = fitted.predict(digits.test)
    assert verdicts.files == digits.test.names
    np.testing.assert_array_equal(verdicts.anomaly_score, fitted.score(digits.test))
    np.testing.assert_array_equal(verdicts.label == 1, verdicts.p_value <= 0.01)
    assert verdicts.label.mean() < 0.05


def test_a_stranger_scores_higher_than_any_digit(fitted: Detector, digits: DataSet) -> None:
    strange = np.indices((8, 8)).sum(axis=0, dtype=np.uint8)[None] % 2 * 255
    assert fitted.score(strange)[0] > fitted.score(digits.test).max()
    assert fitted.predict(strange).verdict == ["anomaly"]


def test_files_arrays_and_folders_score_alike(fitted: Detector, digit_pixels: Pixels, tmp_path: Path) -> None:
    for i, image in enumerate(digit_pixels[:12]):
        Image.fromarray(image[:, :, 0]).save(tmp_path / f"{i:02}.png")
    expected = fitted.score(digit_pixels[:12])
    np.testing.assert_array_equal(fitted.score(tmp_path), expected)
    np.testing.assert_array_equal(fitted.score(sorted(tmp_path.iterdir())), expected)
    np.testing.assert_array_equal(fitted.score(digit_pixels[:12, :, :, 0]), expected)


def test_calibrating_anew_moves_the_threshold_and_no_score(digit_pixels: Pixels, digits: DataSet) -> None:
    detector = Detector("autoencoder", training=FAST).fit(digit_pixels)
    before, scores = detector.decision_.threshold, detector.score(digits.test)
    detector.calibrate(digits.test, decision=DecisionSettings(false_alarm_rate=0.2))
    np.testing.assert_array_equal(detector.score(digits.test), scores)
    assert detector.decision_.threshold < before
    assert detector.predict(digits.test).label.mean() <= 0.2
    assert detector.manifest.data.n_calibration == len(digits.test)


def test_calibrating_on_training_images_is_refused(fitted: Detector, digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match="were trained on"):
        fitted.calibrate(digit_pixels[:50])


def test_a_rate_that_cannot_be_promised_is_refused_before_training(digit_pixels: Pixels, tmp_path: Path) -> None:
    asked = Detector("autoencoder", training=FAST, decision=DecisionSettings(false_alarm_rate=0.01))
    message = r"50 held-out normal images can guarantee a false-alarm rate of 2\.0% at best; 1% needs 99"
    with pytest.raises(CalibrationError, match=message):
        asked.fit(digit_pixels[:100], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_that_cannot_promise_leaves_the_detector_as_it_was(digit_pixels: Pixels, digits: DataSet) -> None:
    detector = Detector("autoencoder", training=FAST, decision=DecisionSettings(false_alarm_rate=0.01)).fit(
        digit_pixels
    )
    threshold, manifest = detector.decision_.threshold, detector.manifest
    with pytest.raises(CalibrationError, match="50 held-out"):
        detector.calibrate(digits.test.subset(np.arange(50)))
    assert detector.decision_.threshold == threshold
    assert detector.manifest == manifest


def test_without_a_rate_few_images_take_the_smallest_that_they_can_promise(digit_pixels: Pixels) -> None:
    detector = Detector("autoencoder", training=FAST).fit(digit_pixels[:60])
    n = detector.manifest.data.n_calibration
    assert n == 30
    assert detector.decision_.false_alarm_rate == pytest.approx(1 / 31)
    assert "lowest rate that can be guaranteed" in detector.decision_.promise()


def test_near_duplicates_stay_on_one_side_of_the_split(digit_pixels: Pixels) -> None:
    pixels = digit_pixels[np.repeat(np.arange(80), 3)]
    groups = near_duplicate_groups(thumbnails(pixels))
    learn, _, hold = split_normals(pixels, DecisionSettings(), seed=0)
    assert not set(groups[learn]) & set(groups[hold])
    assert sorted([*learn, *hold]) == list(range(240))


def test_an_ensemble_gets_three_disjoint_parts_and_no_more_to_calibrate_than_it_needs(digit_pixels: Pixels) -> None:
    learn, standard, hold = split_normals(digit_pixels, DecisionSettings(), seed=0, standardise=True)
    assert sorted([*learn, *standard, *hold]) == list(range(len(digit_pixels)))
    assert min(len(learn), len(standard), len(hold)) > 0
    many = np.random.default_rng(0).integers(0, 256, (4000, 16, 16, 1), dtype=np.uint8)
    _, standard, hold = split_normals(many, DecisionSettings(), seed=0, standardise=True)
    assert (len(standard), len(hold)) == (300, 500)


def test_images_that_are_all_alike_cannot_be_split(digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match="near-duplicates of each other"):
        Detector("autoencoder", training=FAST).fit(np.repeat(digit_pixels[:1], 50, axis=0))


def test_the_value_range_comes_from_the_training_images(rng: np.random.Generator) -> None:
    """Twelve-bit pictures in sixteen-bit arrays keep their 4,096 levels."""
    twelve = rng.integers(0, 4096, (60, 8, 8)).astype(np.uint16)
    detector = Detector("autoencoder", training=FAST).fit(twelve)
    assert detector.spec.value_max == 4095
    brighter = twelve.copy()
    brighter[0, 0, 0] += 1
    assert detector.score(brighter)[0] != detector.score(twelve)[0]
    with pytest.raises(ImageError, match="8"):
        detector.score((twelve >> 4).astype(np.uint8))


def test_a_region_of_interest_is_kept_in_the_file(digit_pixels: Pixels, tmp_path: Path) -> None:
    detector = Detector(AutoencoderSettings(widths=(4,), latent_dim=4), training=FAST, roi="0,0,0.5,1").fit(
        digit_pixels
    )
    painted = digit_pixels[:5].copy()
    painted[:, :, 4:] = 255
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    np.testing.assert_array_equal(loaded.score(painted), loaded.score(digit_pixels[:5]))


def test_a_folder_with_a_test_part_is_learnt_from_its_training_part_alone(digit_pixels: Pixels, tmp_path: Path) -> None:
    for place, count in (("train/good", 40), ("test/good", 5), ("test/hole", 5), ("ground_truth/hole", 5)):
        (tmp_path / place).mkdir(parents=True)
        for i in range(count):
            suffix = "_mask" if "truth" in place else ""
            Image.fromarray(digit_pixels[i, :, :, 0]).save(tmp_path / place / f"{i}{suffix}.png")
    for source in (tmp_path, str(tmp_path)):
        data = Detector("autoencoder", training=FAST).fit(source).manifest.data
        assert data.n_training + data.n_calibration == 40


def test_a_loaded_detector_is_not_fitted_again(fitted: Detector, digit_pixels: Pixels, tmp_path: Path) -> None:
    loaded = Detector.load(fitted.save(tmp_path / "part.safetensors"))
    with pytest.raises(StateError, match="make a new Detector"):
        loaded.fit(digit_pixels)


def test_one_image_is_not_enough_and_a_wrong_family_is_named(digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match="fitting needs"):
        Detector().fit(digit_pixels[:1])
    with pytest.raises(SettingsError, match="'autoencoder2' is not a detector; there are auto, autoencoder"):
        Detector("autoencoder2").fit(digit_pixels)


def test_a_detector_from_an_onnx_file_cannot_be_saved_as_weights(fitted: Detector, tmp_path: Path) -> None:
    from oddlens.detector.export import export

    export(fitted, tmp_path / "part.onnx")
    with pytest.raises(SettingsError, match=r"can only be saved as \.onnx"):
        Detector.load(tmp_path / "part.onnx").save(tmp_path / "part.safetensors")
    with pytest.raises(SettingsError, match=r"export the \.safetensors file"):
        export(Detector.load(tmp_path / "part.onnx"), tmp_path / "again.onnx")
