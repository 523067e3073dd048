"""Export: one file that gives the same scores, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.detector import export as exporting
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, SettingsError


def test_the_relative_difference_of_the_scores_is_returned(digits_detector: Detector, tmp_path: Path) -> None:
    assert 0 <= exporting.export(digits_detector, tmp_path / "part.onnx") <= 1e-4


def test_the_file_takes_pixels_and_carries_its_manifest(exported: Path, digits_detector: Detector) -> None:
    model = onnx.load(exported)
    (pixels,) = model.graph.input
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == ["batch", 8, 8, 1]
    assert [output.name for output in model.graph.output] == ["anomaly_score", "anomaly_map", "reconstruction"]
    loaded = Detector.load(exported)
    runtime = RuntimeSettings(engine="onnxruntime")
    assert loaded.manifest == digits_detector.manifest.model_copy(
        update={"digest": loaded.manifest.digest, "runtime": runtime}
    )
    np.testing.assert_array_equal(loaded.decision_.calibration_scores, digits_detector.decision_.calibration_scores)


def test_the_graph_has_only_operators_of_onnx_and_no_path_of_this_machine(exported: Path) -> None:
    model = onnx.load(exported)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == len(model.training_info) == 0
    assert str(Path(exporting.__file__).parent).encode() not in exported.read_bytes()


def test_a_graph_with_other_scores_is_refused(
    digits_detector: Detector, digit_pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Detector(digits_detector.model, training=TrainingSettings(epochs=1, seed=1)).fit(digit_pixels)
    assert other.network is not None
    graph = exporting.trace(other.network)
    monkeypatch.setattr(exporting, "trace", lambda _: graph)
    with pytest.raises(ArtifactError, match="not written, because exported scores differ"):
        exporting.export(digits_detector, tmp_path / "part.onnx")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(digits_detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"end in \.onnx"):
        exporting.export(digits_detector, tmp_path / "part.pt")


def test_a_detector_of_an_exported_file_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"export the \.safetensors file"):
        exporting.export(Detector.load(exported), tmp_path / "again.onnx")


def test_the_exporter_prints_nothing(digits_detector: Detector, capfd: pytest.CaptureFixture[str]) -> None:
    assert digits_detector.network is not None
    exporting.trace(digits_detector.network)
    assert capfd.readouterr() == ("", "")


def test_exporting_leaves_the_network_unchanged(digits_detector: Detector, digit_pixels: Pixels) -> None:
    before = digits_detector.score(digit_pixels[:20])
    assert digits_detector.network is not None
    exporting.trace(digits_detector.network)
    np.testing.assert_array_equal(digits_detector.score(digit_pixels[:20]), before)
