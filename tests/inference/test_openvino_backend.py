"""OpenVINO: another runtime, whose scores have a calibration of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from oddlens.artifact import onnx_file
from oddlens.config.base import DecisionSettings, RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, CalibrationError, SettingsError, StateError
from oddlens.inference import golden

ov = pytest.importorskip("openvino", reason="needs the extra openvino")
from oddlens.inference.openvino_backend import OpenvinoBackend  # noqa: E402 - needs openvino

FP32, BF16 = (RuntimeSettings(engine="openvino", precision=precision) for precision in ("fp32", "bf16"))
needs_bf16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="this processor has no bfloat16"
)


def one_operator(operator: str) -> bytes:
    """A graph of one operator."""
    value, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def recalibrated(exported: Path, digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector = Detector.load(exported).calibrate(digits.test, runtime=FP32)
    return detector.save(tmp_path_factory.mktemp("openvino") / "part.onnx")


def test_float32_scores_are_those_of_the_detector_at_every_batch_size(
    recalibrated: Path, digits_detector: Detector, digit_pixels: Pixels
) -> None:
    loaded = Detector.load(recalibrated)
    assert loaded.manifest.runtime == FP32
    assert loaded.backend.name == f"openvino {ov.__version__.partition('-')[0]} cpu fp32"
    for size in (1, 3, 50):
        np.testing.assert_allclose(
            loaded.score(digit_pixels[:size]), digits_detector.score(digit_pixels[:size]), rtol=1e-5
        )
    (ours,), (theirs,) = digits_detector.iter_predictions(digit_pixels[:7]), loaded.iter_predictions(digit_pixels[:7])
    for actual, values in zip(theirs[1:], ours[1:], strict=True):  # map and reconstruction
        np.testing.assert_allclose(np.array(actual), np.array(values), atol=1e-5)


def test_predictions_stay_the_same_when_the_next_batch_is_scored(recalibrated: Path, digit_pixels: Pixels) -> None:
    backend = Detector.load(recalibrated).backend
    first = backend(digit_pixels[:5])
    scores, maps = first.anomaly_score.copy(), np.array(first.anomaly_map)
    backend(digit_pixels[5:10])
    np.testing.assert_array_equal(first.anomaly_score, scores)
    np.testing.assert_array_equal(first.anomaly_map, maps)


@needs_bf16
def test_bf16_has_its_own_scores_calibration_and_golden_test(exported: Path, digits: DataSet, tmp_path: Path) -> None:
    detector = Detector.load(exported)
    before, threshold = detector.score(digits.test), detector.decision_.threshold
    detector.calibrate(digits.test, decision=DecisionSettings(false_alarm_rate=0.1), runtime=BF16)
    after = detector.score(digits.test)
    assert 0 < np.abs(after / before - 1).max() < 0.02
    np.testing.assert_array_equal(np.sort(after), detector.decision_.calibration_scores)
    assert detector.decision_.threshold != threshold
    loaded = Detector.load(detector.save(tmp_path / "part.onnx"))
    assert loaded.backend.name.endswith("cpu bf16")
    assert loaded.manifest.golden == golden.golden_scores(detector.backend)
    np.testing.assert_array_equal(loaded.score(digits.test), after)
    assert loaded.decision_.training_scores.size == 0  # they belonged to the other runtime


@needs_bf16
def test_a_calibration_that_is_refused_leaves_the_runtime_unchanged(exported: Path, digits: DataSet) -> None:
    detector = Detector.load(exported)
    scores, manifest = detector.score(digits.test), detector.manifest
    with pytest.raises(CalibrationError):
        detector.calibrate(
            digits.test.subset(np.arange(20)), decision=DecisionSettings(false_alarm_rate=0.01), runtime=BF16
        )
    assert detector.manifest == manifest
    np.testing.assert_array_equal(detector.score(digits.test), scores)


def test_scores_of_two_runtimes_are_never_mixed(exported: Path, digits: DataSet) -> None:
    with pytest.raises(StateError, match="of another runtime or precision cannot be added"):
        Detector.load(exported).calibrate(digits.test, runtime=FP32, add=True)


def test_a_runtime_that_does_not_run_this_kind_of_file_is_refused(
    exported: Path, digits_detector: Detector, digits: DataSet
) -> None:
    with pytest.raises(SettingsError, match=r"torch runs \.safetensors files"):
        Detector.load(exported).calibrate(digits.test, runtime=RuntimeSettings())
    with pytest.raises(SettingsError, match="openvino does not run this detector"):
        digits_detector.calibrate(digits.test, runtime=FP32)


def test_a_runtime_changed_in_the_file_is_refused(exported: Path, tmp_path: Path) -> None:
    """Another runtime needs another calibration, and changing its name in the file does not provide one."""
    (tmp_path / "part.onnx").write_bytes(
        exported.read_bytes().replace(b'"engine":"onnxruntime"', b'"engine":"openvino"   ')
    )
    with pytest.raises(ArtifactError, match="digest differs"):
        Detector.load(tmp_path / "part.onnx")


def test_a_graph_that_openvino_cannot_load_is_refused(recalibrated: Path, tmp_path: Path) -> None:
    _, manifest, tensors = onnx_file.read_onnx(recalibrated)
    onnx_file.save_onnx(tmp_path / "part.onnx", one_operator("NoSuchOperator"), manifest, tensors)
    with pytest.raises(ArtifactError, match="OpenVINO cannot load it"):
        Detector.load(tmp_path / "part.onnx")


def test_a_graph_in_the_format_of_openvino_is_refused(exported: Path, tmp_path: Path) -> None:
    """`Core.read_model` would read it, with nothing in it checked."""
    manifest = onnx_file.read_onnx(exported)[1]
    ov.save_model(ov.Core().read_model(one_operator("Relu")), tmp_path / "part.xml")
    content = (tmp_path / "part.xml").read_bytes()
    with pytest.raises(ArtifactError, match=r"part\.onnx: OpenVINO cannot load it"):
        OpenvinoBackend(content, manifest.input, "fp32", tmp_path / "part.onnx")
