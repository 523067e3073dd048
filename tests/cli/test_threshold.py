"""`oddlens threshold`: another decision, the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import oddlens

from oddlens.config.base import DecisionSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError


def test_a_rate_that_cannot_be_guaranteed_leaves_the_file_unchanged(digits_detector: Detector, tmp_path: Path) -> None:
    path = digits_detector.save(tmp_path / "part.safetensors")
    content = path.read_bytes()
    n = digits_detector.manifest.data.n_calibration
    done = oddlens("threshold", path, "--false-alarm-rate", 0.0001)
    assert done.returncode == 1
    assert f"{n} held-out normal images (counted as " in done.stderr
    assert "0.01% needs 9999" in done.stderr
    assert path.read_bytes() == content
    loaded = Detector.load(path)
    with pytest.raises(CalibrationError):
        loaded.set_decision(DecisionSettings(false_alarm_rate=0.0001))


def test_the_file_is_changed_in_place_and_the_guarantee_is_printed(digits_detector: Detector, tmp_path: Path) -> None:
    path = digits_detector.save(tmp_path / "part.safetensors")
    done = oddlens("threshold", path, "--false-alarm-rate", 0.05, "--confidence", 0.9, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["before"]["threshold"] == digits_detector.decision_.threshold > result["threshold"]
    assert result["guarantee"]["kind"] == "with confidence"
    assert result["guarantee"]["realised_range"] is None  # known only where images are counted
    assert 0 < result["guarantee"]["calibration_groups"] < result["n_calibration"]
    assert Detector.load(path).manifest.decision == DecisionSettings(false_alarm_rate=0.05, confidence=0.9)
    again = oddlens("threshold", path, "--on-average", "--json")
    assert json.loads(again.stdout)["guarantee"]["kind"] == "on average"
    assert Detector.load(path).manifest.decision == DecisionSettings(false_alarm_rate=0.05)
    assert oddlens("threshold", path).returncode == 2
    shown = oddlens("show", path)
    assert "on average over calibration sets" in shown.stdout.replace("\n", " ")
    assert "at best on average" in shown.stdout.replace("\n", " ")


def test_a_detector_without_calibration_can_decide_by_a_percentile(
    digit_pixels: Pixels, digits_detector: Detector, tmp_path: Path
) -> None:
    uncalibrated = Detector(
        digits_detector.model, training=digits_detector.training, decision=DecisionSettings(method="train_percentile")
    )
    path = uncalibrated.fit(digit_pixels[:300], hold_out=False).save(tmp_path / "part.safetensors")
    done = oddlens("threshold", path, "--train-percentile", 90)
    assert done.returncode == 0, done.stderr
    assert "(no guarantee)" in done.stdout.replace("\n", " ")
    assert Detector.load(path).manifest.decision.train_percentile == 90
