"""`oddlens calibrate`: a new threshold, and another runtime, from new normal images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, oddlens, run_json

from oddlens.detector.detector import Detector


def test_the_decision_follows_from_the_new_images(digits_detector: Detector, digit_files: Path, tmp_path: Path) -> None:
    path = digits_detector.save(tmp_path / "part.safetensors")
    done = oddlens("calibrate", path, digit_files, "-o", tmp_path / "fresh.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["n_calibration"] == 150
    assert result["before"]["n_calibration"] == digits_detector.manifest.data.n_calibration
    fresh = Detector.load(tmp_path / "fresh.safetensors")
    assert str(digit_files) in fresh.manifest.data.calibration_source
    scores = fresh.score(sorted(digit_files.glob("*.png")))
    assert np.array_equal(np.sort(scores), fresh.decision_.calibration_scores)
    assert np.array_equal(scores, digits_detector.score(sorted(digit_files.glob("*.png"))))
    assert fresh.decision_.threshold == scores.max()  # 1% of 151 ranks is one: that of the new image


def test_the_runtime_and_its_precision_can_be_changed(exported: Path, digit_files: Path, tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino", reason="needs the extra openvino")
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    new = tmp_path / "bf16.onnx"
    command = ("calibrate", exported, digit_files, "--false-alarm-rate", 0.1, "-o", new)
    assert "onnxruntime computes in fp32 only" in error_of(*command, "--precision", "bf16")
    result = run_json(*command, "--runtime", "openvino", "--precision", "bf16")
    assert result["before"]["runtime"] == {"engine": "onnxruntime", "precision": "fp32"}
    assert result["runtime"] == {"engine": "openvino", "precision": "bf16"}
    assert "cpu bf16" in oddlens("show", new).stdout


def test_a_runtime_that_does_not_run_the_file_is_refused(saved: Path, digit_files: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    message = error_of("calibrate", saved, digit_files, "--runtime", "onnxruntime", "-o", output)
    assert "onnxruntime does not run this detector" in message
    assert not output.exists()


def test_images_count_by_group_unless_each_shall_count(digits_detector: Detector, digit_files: Path) -> None:
    path = digits_detector.save(digit_files.parent / "part.safetensors")
    for image in sorted(digit_files.glob("*.png"))[:50]:
        shutil.copy(image, image.with_name(f"again-{image.name}"))
    by_group = run_json("calibrate", path, digit_files)
    assert by_group["n_calibration"] == 200
    assert by_group["guarantee"]["calibration_groups"] <= 150
    by_image = run_json("calibrate", path, digit_files, "--count-by", "image")
    assert by_image["guarantee"]["calibration_groups"] is None
    assert by_image["false_alarm_rate"] == 0.01
    assert "--count-by" in error_of("calibrate", path, digit_files, "--count-by", "part", code=2)
