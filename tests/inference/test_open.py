"""Choosing the runtime of an exported graph."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oddlens.artifact.onnx_file import read_onnx
from oddlens.config.base import RuntimeSettings
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.inference.onnx_backend import OnnxBackend
from oddlens.inference.open import open_graph


def test_a_graph_runs_in_onnx_runtime_with_the_requested_threads(exported: Path) -> None:
    graph, manifest, _ = read_onnx(exported)
    backend = open_graph(graph, manifest.input, manifest.runtime, exported, threads=2)
    assert isinstance(backend, OnnxBackend)
    assert backend.spec == manifest.input
    assert backend.streams == 2


def test_the_number_of_threads_comes_from_the_caller_and_not_from_the_environment(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Detector.load(exported, threads=3).backend.streams == 3
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert Detector.load(exported).backend.streams == 4


def test_a_graph_runs_in_openvino(exported: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    graph, manifest, _ = read_onnx(exported)
    backend = open_graph(graph, manifest.input, RuntimeSettings(engine="openvino"), exported, threads=2)
    assert backend.name.startswith("openvino")
    assert backend.streams == 2


def test_without_openvino_the_error_names_the_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "oddlens.inference.openvino_backend", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    graph, manifest, _ = read_onnx(exported)
    with pytest.raises(MissingExtraError, match=r"scoring with OpenVINO needs .* 'oddlens\[openvino\]'"):
        open_graph(graph, manifest.input, RuntimeSettings(engine="openvino"), exported)


def test_torch_does_not_run_an_exported_graph(exported: Path) -> None:
    graph, manifest, _ = read_onnx(exported)
    with pytest.raises(ArtifactError, match="do not run with torch; export the detector again"):
        open_graph(graph, manifest.input, RuntimeSettings(engine="torch"), exported)
