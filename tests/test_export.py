"""Export: one file that scores the same, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from oddlens import export as exporting
from oddlens.config import TrainingSettings
from oddlens.detector import Detector
from oddlens.errors import ArtifactError, SettingsError
from oddlens.images import Pixels


@pytest.fixture(scope="module")
def exported(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "part.onnx"
    assert exporting.export(fitted, path) <= 1e-4
    return path


def test_the_file_takes_pixels_and_carries_its_manifest(exported: Path, fitted: Detector) -> None:
    model = onnx.load(exported)
    (pixels,) = model.graph.input
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == ["batch", 8, 8, 1]
    assert [output.name for output in model.graph.output] == ["anomaly_score", "anomaly_map", "reconstruction"]
    loaded = Detector.load(exported)
    assert loaded.manifest.model_copy(update={"digest": ""}) == fitted.manifest
    np.testing.assert_array_equal(loaded.decision_.calibration_scores, fitted.decision_.calibration_scores)


def test_a_graph_that_scores_differently_is_not_written(
    fitted: Detector, digit_pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Detector(fitted.model, training=TrainingSettings(epochs=1, seed=1)).fit(digit_pixels)
    graph = exporting.traced(other)
    monkeypatch.setattr(exporting, "traced", lambda _: graph)
    with pytest.raises(ArtifactError, match="not written, since exported scores differ"):
        exporting.export(fitted, tmp_path / "part.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_refused_for_an_exported_file(exported: Path) -> None:
    with pytest.raises(SettingsError, match="run on the CPU"):
        Detector.load(exported, device="cuda")


def test_another_suffix_is_refused(fitted: Detector, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"end in \.onnx"):
        exporting.export(fitted, tmp_path / "part.pt")


def changed(path: Path, target: Path, key: str, value: str | None) -> Path:
    model = onnx.load(path)
    for entry in list(model.metadata_props):
        if entry.key == key:
            model.metadata_props.remove(entry)
    if value is not None:
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("oddlens", None, "no oddlens manifest"),
        ("oddlens", "{}", "schema version None"),
        ("oddlens", "[" * 100_000, "manifest is damaged"),
        ("oddlens.statistics", None, "calibration cannot be read"),
        ("oddlens.statistics", "AAAA", "calibration cannot be read"),
    ],
)
def test_damaged_metadata_is_refused(exported: Path, tmp_path: Path, key: str, value: str | None, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Detector.load(changed(exported, tmp_path / "part.onnx", key, value))


def test_a_changed_graph_fails_its_golden_test(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(model, tmp_path / "part.onnx")
    with pytest.raises(ArtifactError, match="built-in test pictures"):
        Detector.load(tmp_path / "part.onnx")


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07" * 50])
def test_a_file_that_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        Detector.load(path)
