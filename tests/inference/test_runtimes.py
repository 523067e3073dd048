"""Runtimes of a `.safetensors` detector: float32, and bfloat16 with a calibration of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens.config.base import DecisionSettings, RuntimeSettings
from oddlens.config.parse import parse
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import SettingsError
from oddlens.models.layers import fast_bf16

BF16 = RuntimeSettings(precision="bf16")


@pytest.fixture(scope="module")
def in_bf16(fitted: Detector, digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = fitted.save(tmp_path_factory.mktemp("runtime") / "part.safetensors")
    detector = Detector.load(path, device="cpu")
    detector.calibrate(digits.test, decision=DecisionSettings(false_alarm_rate=0.1), runtime=BF16)
    return detector.save(path)


def test_scores_are_in_float32_unless_asked_otherwise(fitted: Detector) -> None:
    assert fitted.manifest.runtime == RuntimeSettings(engine="torch", precision="fp32")
    assert fitted.backend.name.endswith("fp32")


def test_bf16_moves_scores_a_little_and_is_what_the_file_goes_on_with(
    in_bf16: Path, fitted: Detector, digits: DataSet
) -> None:
    loaded = Detector.load(in_bf16, device="cpu")
    assert loaded.manifest.runtime == BF16
    assert loaded.backend.name == f"torch {torch.__version__} cpu bf16" + (
        "" if fast_bf16(torch.device("cpu")) else ", emulated"
    )
    scores = loaded.score(digits.test)
    assert 0 < np.abs(scores / fitted.score(digits.test) - 1).max() < 0.02
    np.testing.assert_array_equal(np.sort(scores), loaded.decision_.calibration_scores)
    (outputs,) = loaded.iter_predictions(digits.test.subset(np.arange(3)))
    assert outputs.anomaly_map is not None
    assert outputs.anomaly_map.dtype == np.float32


def test_only_what_is_calibrated_in_float32_is_exported(in_bf16: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="calibrate it with --precision fp32 first"):
        export(Detector.load(in_bf16, device="cpu"), tmp_path / "part.onnx")


def test_the_way_back_to_float32_is_another_calibration(in_bf16: Path, fitted: Detector, digits: DataSet) -> None:
    detector = Detector.load(in_bf16, device="cpu").calibrate(digits.test, runtime=RuntimeSettings())
    np.testing.assert_allclose(detector.score(digits.test), fitted.score(digits.test), rtol=1e-6)
    assert detector.manifest.runtime == RuntimeSettings()


def test_onnxruntime_has_no_bf16() -> None:
    with pytest.raises(SettingsError, match="onnxruntime computes in fp32 alone"):
        parse(RuntimeSettings, {"engine": "onnxruntime", "precision": "bf16"}, "options")
