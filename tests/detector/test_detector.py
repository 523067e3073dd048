"""Detector: fit, calibrate, score, predict; steps out of order and unusable images are refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataError, ImageError, SettingsError, StateError

FAST = TrainingSettings(epochs=1)


def test_steps_out_of_order_say_which_step_is_missing(digit_pixels: Pixels) -> None:
    for step in ("score", "predict", "calibrate"):
        with pytest.raises(StateError, match="call fit"):
            getattr(Detector(), step)(digit_pixels[:5])
    for name in ("manifest", "region", "map_threshold", "decision_", "decision_json", "spec", "tensors"):
        with pytest.raises(StateError, match="call fit"):
            getattr(Detector(), name)
    for call in (lambda: Detector().fingerprints("training"), lambda: Detector().export("part.onnx")):
        with pytest.raises(StateError, match="call fit"):
            call()
    uncalibrated = Detector("autoencoder", training=FAST).fit(digit_pixels[:150], hold_out=False)
    assert np.isfinite(uncalibrated.score(digit_pixels[:5])).all()
    with pytest.raises(StateError, match="calibrate"):
        uncalibrated.predict(digit_pixels[:5])


def test_calibration_images_are_held_out_of_training(digits_detector: Detector, digit_pixels: Pixels) -> None:
    train, calibration = digits_detector.fingerprints("training"), digits_detector.fingerprints("calibration")
    assert len(train) + len(calibration) == len(digit_pixels)
    assert len(calibration) >= 99
    data = digits_detector.manifest.data
    assert (data.n_training, data.n_calibration) == (len(train), len(calibration))
    assert sorted([*train.tolist(), *calibration.tolist()]) == sorted(fingerprints(digit_pixels).tolist())


def test_verdicts_keep_the_order_and_the_false_alarm_rate(digits_detector: Detector, digits: DataSet) -> None:
    verdicts = digits_detector.predict(digits.test)
    assert verdicts.files == digits.test.names
    np.testing.assert_array_equal(verdicts.anomaly_score, digits_detector.score(digits.test))
    np.testing.assert_array_equal(verdicts.label == 1, verdicts.p_value <= 0.01)
    assert verdicts.label.mean() < 0.05


def test_scores_need_one_name_each(digits_detector: Detector) -> None:
    with pytest.raises(DataError, match="2 names for 3 scores"):
        digits_detector.predict_from_scores(["a.png", "b.png"], np.zeros(3))
    assert digits_detector.predict_from_scores(["a.png"], [0.0]).verdict == ["normal"]  # type: ignore[arg-type]


def test_a_checkerboard_scores_higher_than_all_digits(digits_detector: Detector, digits: DataSet) -> None:
    checkerboard = np.indices((8, 8)).sum(axis=0, dtype=np.uint8)[None] % 2 * 255
    assert digits_detector.score(checkerboard)[0] > digits_detector.score(digits.test).max()
    assert digits_detector.predict(checkerboard).verdict == ["anomaly"]


def test_files_arrays_and_folders_score_alike(digits_detector: Detector, digit_pixels: Pixels, tmp_path: Path) -> None:
    for i, image in enumerate(digit_pixels[:12]):
        Image.fromarray(image[:, :, 0]).save(tmp_path / f"{i:02}.png")
    expected = digits_detector.score(digit_pixels[:12])
    np.testing.assert_array_equal(digits_detector.score(tmp_path), expected)
    np.testing.assert_array_equal(digits_detector.score(sorted(tmp_path.iterdir())), expected)
    np.testing.assert_array_equal(digits_detector.score(digit_pixels[:12, :, :, 0]), expected)


@pytest.mark.parametrize("runtime", ["saved", "exported"])
def test_images_in_memory_score_as_their_files_do(
    runtime: str, digit_pixels: Pixels, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    detector = Detector.load(request.getfixturevalue(runtime))
    grey = digit_pixels[:6, :, :, 0]
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file, pixels in zip(files, grey, strict=True):
        Image.fromarray(pixels).save(file)
    expected = detector.predict(files).anomaly_score
    read_only = grey.copy()
    read_only.setflags(write=False)
    np.save(tmp_path / "a.npy", digit_pixels[:6])
    forms: dict[str, Any] = {
        "list of arrays": list(grey),
        "list of images": [Image.fromarray(pixels) for pixels in grey],
        "list of contents": [file.read_bytes() for file in files],
        "mixed list": [*files[:2], grey[2], Image.fromarray(grey[3]), files[4].read_bytes(), files[5]],
        "read-only": read_only,
        "read-only colour": np.repeat(read_only[..., None], 3, axis=-1),
        "Fortran order": np.asfortranarray(digit_pixels[:6]),
        "reversed view": digit_pixels[5::-1][::-1],
        "memory map": np.load(tmp_path / "a.npy", mmap_mode="r"),
        "images of a memory map": list(np.load(tmp_path / "a.npy", mmap_mode="r")),
    }
    for name, images in forms.items():
        np.testing.assert_array_equal(detector.score(images), expected, err_msg=name)
        scores = np.concatenate([batch.anomaly_score for batch in detector.iter_predictions(images, batch=4)])
        np.testing.assert_allclose(scores, expected, rtol=1e-5, err_msg=name)
    for one in (grey[0], read_only[0], Image.fromarray(grey[0]), files[0].read_bytes()):
        verdicts = detector.predict(one)
        assert verdicts.files == ("array[0]",)
        np.testing.assert_allclose(verdicts.anomaly_score, expected[:1], rtol=1e-5)
    assert detector.predict(forms["mixed list"]).files[1:4] == (str(files[1]), "array[2]", "array[3]")


def test_a_list_of_images_fits_and_calibrates_as_their_array_does(digit_pixels: Pixels) -> None:
    array, fresh = digit_pixels[:300], digit_pixels[300:420]
    images = [Image.fromarray(pixels[..., 0]) for pixels in array]
    one, other = (Detector("autoencoder", training=FAST).fit(form) for form in (array, images))
    assert one.decision_.threshold == other.decision_.threshold
    assert one.calibrate(fresh).decision_.threshold == other.calibrate(list(fresh)).decision_.threshold
    assert other.manifest.data.calibration_source == "a list of 120"


def test_images_that_are_all_alike_cannot_be_split(digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match="near-duplicates of each other"):
        Detector("autoencoder", training=FAST).fit(np.repeat(digit_pixels[:1], 50, axis=0))


def test_the_value_range_comes_from_the_training_images(rng: np.random.Generator) -> None:
    """Twelve-bit images in sixteen-bit arrays keep their 4,096 levels."""
    twelve = rng.integers(0, 4096, (60, 8, 8)).astype(np.uint16)
    detector = Detector("autoencoder", training=FAST).fit(twelve)
    assert detector.spec.value_max == 4095
    brighter = twelve.copy()
    brighter[0, 0, 0] += 1
    assert detector.score(brighter)[0] != detector.score(twelve)[0]
    with pytest.raises(ImageError, match="8"):
        detector.score((twelve >> 4).astype(np.uint8))


def test_a_region_of_interest_is_saved_in_the_file(digit_pixels: Pixels, tmp_path: Path) -> None:
    detector = Detector(AutoencoderSettings(widths=(4,), latent_dim=4), training=FAST, roi="0,0,0.5,1").fit(
        digit_pixels
    )
    painted = digit_pixels[:5].copy()
    painted[:, :, 4:] = 255
    loaded = Detector.load(detector.save(tmp_path / "part.safetensors"))
    np.testing.assert_array_equal(loaded.score(painted), loaded.score(digit_pixels[:5]))


def test_of_a_folder_with_a_test_part_only_the_training_part_is_used(digit_pixels: Pixels, tmp_path: Path) -> None:
    for place, count in (("train/good", 40), ("test/good", 5), ("test/hole", 5), ("ground_truth/hole", 5)):
        (tmp_path / place).mkdir(parents=True)
        for i in range(count):
            suffix = "_mask" if "truth" in place else ""
            Image.fromarray(digit_pixels[i, :, :, 0]).save(tmp_path / place / f"{i}{suffix}.png")
    for source in (tmp_path, str(tmp_path)):
        data = Detector("autoencoder", training=FAST).fit(source).manifest.data
        assert data.n_training + data.n_calibration == 40


def test_a_loaded_detector_refuses_to_fit(digits_detector: Detector, digit_pixels: Pixels, tmp_path: Path) -> None:
    loaded = Detector.load(digits_detector.save(tmp_path / "part.safetensors"))
    with pytest.raises(StateError, match="make a new Detector"):
        loaded.fit(digit_pixels)


def test_one_image_is_too_few_and_an_unknown_family_is_refused(digit_pixels: Pixels) -> None:
    with pytest.raises(DataError, match="fitting needs"):
        Detector().fit(digit_pixels[:1])
    with pytest.raises(SettingsError, match="'autoencoder2' is not a detector; there are auto, autoencoder"):
        Detector("autoencoder2").fit(digit_pixels)


def test_a_detector_is_loaded_from_the_content_of_its_file(exported: Path, saved: Path, digit_pixels: Pixels) -> None:
    for path in (exported, saved):
        detector = Detector.load(f"no such file{path.suffix}", content=path.read_bytes())
        assert np.array_equal(detector.score(digit_pixels[:5]), Detector.load(path).score(digit_pixels[:5]))
    with pytest.raises(ArtifactError, match=r"no such file\.onnx: "):
        Detector.load("no such file.onnx", content=b"no detector")


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_another_threshold_changes_the_verdicts_and_nothing_else(
    kind: str, request: pytest.FixtureRequest, digits: DataSet, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(kind)
    before = Detector.load(path)
    assert before.decision_.false_alarm_rate == 0.01
    moved = before.set_decision(DecisionSettings(false_alarm_rate=0.2)).save(tmp_path / f"moved{path.suffix}")
    old, new = Detector.load(path), Detector.load(moved)
    first, second = old.predict(digits.test), new.predict(digits.test)
    assert np.array_equal(first.anomaly_score, second.anomaly_score)  # bitwise
    assert np.array_equal(first.p_value, second.p_value)
    assert (second.threshold < first.threshold).all()
    assert second.label.sum() > first.label.sum()
    assert (second.label == (second.anomaly_score > second.threshold)).all()


def test_a_lot_is_tested_by_its_scores(digits_detector: Detector, digits: DataSet) -> None:
    pixels = digits.test.load(digits_detector.spec)[:60]
    same, negative = (digits_detector.test_lot(digits_detector.score(images)) for images in (pixels, 255 - pixels))
    assert same is not None
    assert negative is not None
    assert (same.shifted, negative.shifted) == (False, True)
    assert digits_detector.test_lot(digits_detector.score(pixels[:29])) is None
    lit = digits_detector.test_lot(digits_detector.score(pixels), images=pixels)
    assert lit is not None
    assert lit.light is not None
    assert not lit.shifted
    with pytest.raises(DataError, match="there are 59 images for 60 scores; give one image for each score"):
        digits_detector.test_lot(np.zeros(60), images=pixels[:59])
    with pytest.raises(StateError, match="is not fitted"):
        Detector().test_lot(np.zeros(60))


def test_the_constructor_only_stores_its_parameters() -> None:
    detector = Detector("nothing", size=-1, roi="nowhere.png", device="tpu", budget=-3.0)
    assert (detector.model, detector.size, detector.roi) == ("nothing", -1, "nowhere.png")
    assert (detector.device, detector.budget, detector.training) == ("tpu", -3.0, None)


def test_the_map_threshold_is_the_rank_of_the_decision_in_the_largest_map_values(digits_detector: Detector) -> None:
    peaks = digits_detector.tensors["calibration.map_peaks"]
    assert (np.diff(peaks) >= 0).all()
    above = (peaks > digits_detector.map_threshold).sum()
    assert above <= 0.01 * (len(peaks) + 1) < above + 2


@pytest.mark.parametrize("kind", ["saved", "exported"])
@pytest.mark.parametrize("copied", [lambda d: pickle.loads(pickle.dumps(d)), copy.copy, copy.deepcopy])
def test_a_copy_scores_alike_and_recalibrating_it_leaves_the_original_alone(
    kind: str, copied: Callable[[Detector], Detector], request: pytest.FixtureRequest, digits: DataSet
) -> None:
    original = Detector.load(request.getfixturevalue(kind), device="cpu", threads=1)
    other = copied(original)
    assert (other.manifest, other.device, other.threads, other.loaded) == (original.manifest, "cpu", 1, True)
    before = original.predict(digits.test)
    np.testing.assert_array_equal(other.predict(digits.test).anomaly_score, before.anomaly_score)
    other.calibrate(digits.test.subset(np.arange(150)), decision=DecisionSettings(false_alarm_rate=0.2))
    other.set_decision(DecisionSettings(false_alarm_rate=0.1))
    after = original.predict(digits.test)
    assert original.decision_.false_alarm_rate == 0.01
    np.testing.assert_array_equal(after.threshold, before.threshold)
    assert (other.predict(digits.test).threshold < before.threshold).all()


def test_a_pickled_detector_still_has_its_parameters_and_its_history(digits_detector: Detector) -> None:
    other = pickle.loads(pickle.dumps(digits_detector))
    assert isinstance(other, Detector)
    for name in ("model", "training", "decision", "size", "roi", "device", "budget", "loaded", "history_", "seconds_"):
        assert getattr(other, name) == getattr(digits_detector, name), name


def test_an_unfitted_detector_is_pickled_as_its_parameters(digit_pixels: Pixels) -> None:
    other = pickle.loads(pickle.dumps(Detector("autoencoder", training=FAST, size=8, roi="0,0,1,1", budget=60)))
    assert (other.model, other.training, other.size, other.roi, other.budget) == (
        "autoencoder",
        FAST,
        8,
        "0,0,1,1",
        60,
    )
    with pytest.raises(StateError, match="call fit"):
        other.score(digit_pixels[:3])
    assert np.isfinite(other.fit(digit_pixels[:200]).score(digit_pixels[:3])).all()


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_a_pickled_detector_is_verified_as_a_file_is(kind: str, request: pytest.FixtureRequest) -> None:
    content = bytearray(pickle.dumps(Detector.load(request.getfixturevalue(kind))))
    content[len(content) // 2] ^= 0x10
    with pytest.raises(ArtifactError, match=r"^pickled detector\.(safetensors|onnx): "):
        pickle.loads(content)
