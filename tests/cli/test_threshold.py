"""Changing a detector's decision: threshold, calibrate, feedback. No score ever moves."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddlens.config.base import DecisionSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector import feedback
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import CalibrationError, DataError, DataNotFoundError, SettingsError


def oddlens(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=300)


@pytest.fixture(scope="module")
def saved(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The fitted detector in both kinds of file."""
    folder = tmp_path_factory.mktemp("saved")
    export(fitted, folder / "part.onnx")
    return {"safetensors": fitted.save(folder / "part.safetensors"), "onnx": folder / "part.onnx"}


@pytest.fixture
def pictures(digits: DataSet, tmp_path: Path) -> Path:
    """Test digits that the detector has not seen, as files."""
    test = digits.test.load(digits.test.choose_spec(None))
    for i, pixels in enumerate(test[:150]):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{i:03}.png")
    return tmp_path


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_threshold_moves_the_verdicts_and_nothing_else(
    saved: dict[str, Path], kind: str, digits: DataSet, tmp_path: Path
) -> None:
    before = Detector.load(saved[kind])
    assert before.decision_.false_alarm_rate == 0.01
    moved = before.set_decision(DecisionSettings(false_alarm_rate=0.2)).save(tmp_path / f"moved.{kind}")
    old, new = Detector.load(saved[kind]), Detector.load(moved)
    first, second = old.predict(digits.test), new.predict(digits.test)
    assert np.array_equal(first.anomaly_score, second.anomaly_score)  # bitwise
    assert np.array_equal(first.p_value, second.p_value)
    assert (second.threshold < first.threshold).all()
    assert second.label.sum() > first.label.sum()
    assert (second.label == (second.anomaly_score > second.threshold)).all()


def test_an_exported_graph_keeps_every_byte_that_is_not_its_metadata(saved: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    part = Detector.load(saved["onnx"]).set_decision(DecisionSettings(false_alarm_rate=0.1))
    before, after = (onnx.load(path) for path in (saved["onnx"], part.save(tmp_path / "moved.onnx")))
    assert [entry.key for entry in before.metadata_props] == [entry.key for entry in after.metadata_props]
    del before.metadata_props[:], after.metadata_props[:]
    assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True)


def test_a_rate_that_cannot_be_promised_leaves_everything_as_it_was(fitted: Detector, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "part.safetensors")
    content = path.read_bytes()
    n = fitted.manifest.data.n_calibration
    done = oddlens("threshold", path, "--false-alarm-rate", 0.0001)
    assert done.returncode == 1
    assert f"{n} held-out normal images can guarantee" in done.stderr
    assert "0.01% needs 9999" in done.stderr
    assert path.read_bytes() == content
    loaded = Detector.load(path)
    with pytest.raises(CalibrationError):
        loaded.set_decision(DecisionSettings(false_alarm_rate=0.0001))


def test_the_command_changes_the_file_in_place_and_says_what_it_promises(fitted: Detector, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "part.safetensors")
    done = oddlens("threshold", path, "--false-alarm-rate", 0.05, "--confidence", 0.9, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["before"]["threshold"] == fitted.decision_.threshold > result["threshold"]
    assert result["guarantee"]["kind"] == "with confidence"
    low, high = result["guarantee"]["realised_range"]
    assert 0 < low < high < 0.1
    assert Detector.load(path).manifest.decision == DecisionSettings(false_alarm_rate=0.05, confidence=0.9)
    again = oddlens("threshold", path, "--on-average", "--json")
    assert json.loads(again.stdout)["guarantee"]["kind"] == "on average"
    assert Detector.load(path).manifest.decision == DecisionSettings(false_alarm_rate=0.05)
    assert oddlens("threshold", path).returncode == 2
    shown = oddlens("show", path)
    assert "on average over calibration sets" in shown.stdout.replace("\n", " ")
    assert "at best on average" in shown.stdout.replace("\n", " ")


def test_a_percentile_can_be_chosen_where_nothing_was_calibrated(
    digit_pixels: Pixels, fitted: Detector, tmp_path: Path
) -> None:
    bare = Detector(fitted.model, training=fitted.training, decision=DecisionSettings(method="train_percentile"))
    path = bare.fit(digit_pixels[:300], hold_out=False).save(tmp_path / "part.safetensors")
    done = oddlens("threshold", path, "--train-percentile", 90)
    assert done.returncode == 0, done.stderr
    assert "(no guarantee)" in done.stdout.replace("\n", " ")
    assert Detector.load(path).manifest.decision.train_percentile == 90


def test_fifty_images_can_promise_two_percent_at_best(digit_pixels: Pixels, fitted: Detector, digits: DataSet) -> None:
    loaded = Detector(fitted.model, training=fitted.training).fit(digit_pixels, hold_out=False)
    test = digits.test.load(digits.test.choose_spec(None))[:50]
    message = r"50 held-out normal images can guarantee a false-alarm rate of 2\.0% at best; 1% needs 99"
    with pytest.raises(CalibrationError, match=message):
        loaded.calibrate(test, decision=DecisionSettings(false_alarm_rate=0.01))
    assert loaded.manifest.data.n_calibration == 0


def test_fresh_normals_make_the_decision_anew(fitted: Detector, pictures: Path, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "part.safetensors")
    done = oddlens("calibrate", path, pictures, "-o", tmp_path / "fresh.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["n_calibration"] == 150
    assert result["before"]["n_calibration"] == fitted.manifest.data.n_calibration
    fresh = Detector.load(tmp_path / "fresh.safetensors")
    assert str(pictures) in fresh.manifest.data.calibration_source
    scores = fresh.score(pictures)
    assert np.array_equal(np.sort(scores), fresh.decision_.calibration_scores)
    assert np.array_equal(scores, fitted.score(pictures))
    assert fresh.decision_.threshold == scores.max()  # 1% of 151 ranks is one: the new image's own


def judged(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "judged.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "judgement"), *rows])
    return path


def test_feedback_proposes_a_new_version_and_changes_nothing(fitted: Detector, pictures: Path, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "part.safetensors")
    content = path.read_bytes()
    rows = [(f"{i:03}.png", "false alarm") for i in range(40)] + [(f"{i:03}.png", "missed") for i in range(40, 44)]
    done = oddlens("feedback", path, judged(pictures, rows), "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert path.read_bytes() == content
    assert result["added"] == 40
    assert result["files"]["detector"] == str(tmp_path / "part-v2.safetensors")
    proposal = Detector.load(tmp_path / "part-v2.safetensors")
    assert proposal.manifest.data.n_calibration == fitted.manifest.data.n_calibration + 40
    assert "judged.csv" in proposal.manifest.data.calibration_source
    changes = {row["what"]: (row["before"], row["after"]) for row in result["changes"]}
    assert changes["calibration images"] == (fitted.manifest.data.n_calibration, proposal.manifest.data.n_calibration)
    assert changes["threshold"] == (fitted.decision_.threshold, proposal.decision_.threshold)
    assert any("missed takes a false-alarm rate of" in note for note in result["notes"])
    known = feedback.read_judged(pictures / "judged.csv")
    again = feedback.propose(Detector.load(tmp_path / "part-v2.safetensors"), known, "x")
    assert again.added == 0  # the same images count once
    assert feedback.next_version(path) == tmp_path / "part-v3.safetensors"
    refused = oddlens("feedback", path, pictures / "judged.csv", "-o", path)
    assert refused.returncode == 1
    assert "never changes a detector" in refused.stderr


def test_the_rate_that_catches_a_missed_image_catches_it(fitted: Detector, digits: DataSet, tmp_path: Path) -> None:
    path = fitted.save(tmp_path / "part.safetensors")
    found = fitted.predict(digits.test)
    places = np.argsort(np.where(found.label == 1, -np.inf, found.anomaly_score))[-3:][::-1]
    missed = digits.test.subset(places)
    missed = replace(missed, labels=np.ones(3, dtype=np.int8))
    notes = feedback.propose(Detector.load(path), missed, "x").notes
    for place, (score, note) in enumerate(zip(found.anomaly_score[places], notes, strict=True), 1):
        assert note.startswith(f"catching {place} of the 3 missed")
        rate = found.p_value[places[place - 1]]
        assert note.endswith(f"{rate:.2%}")
        settings = DecisionSettings(false_alarm_rate=min(rate * 1.0000001, 0.999))
        assert type(fitted.decision_)(settings, fitted.decision_.calibration_scores, np.empty(0)).threshold < score


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("", DataError, r"has no column 'file' \(its columns: none\); it needs file, judgement"),
        ("file,judgement\n", DataError, "contains no judgement; add rows"),
        ("file,verdict\na.png,missed\n", DataError, "has no column 'judgement'"),
        ("file,judgement\n000.png,perhaps\n", DataError, "line 2: 'perhaps' is not a judgement"),
        ("file,judgement\nnowhere.png,missed\n", DataNotFoundError, "line 2: nowhere.png does not exist"),
        ("file,judgement\n,missed\n", DataNotFoundError, "line 2: names no file"),
        ("file,judgement\n000.png\n", DataError, "line 2: '' is not a judgement"),
    ],
)
def test_a_table_of_judgements_that_is_wrong_says_where(
    text: str, error: type[Exception], match: str, pictures: Path
) -> None:
    path = pictures / "judged.csv"
    path.write_text(text)
    with pytest.raises(error, match=match):
        feedback.read_judged(path)


def test_a_detector_is_not_exported_by_saving_it(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="use `oddlens export`"):
        Detector.load(saved["safetensors"]).save(tmp_path / "part.onnx")
