"""Scoring with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from oddlens.artifact import onnx_file
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.inference import onnx_backend
from oddlens.inference.onnx_backend import OnnxBackend
from oddlens.io.onnx_session import create_session


@pytest.fixture
def backend(exported: Path) -> OnnxBackend:
    graph, manifest, _ = onnx_file.read_onnx(exported)
    return OnnxBackend(graph, manifest.input, exported, threads=2)


def test_scores_are_those_of_the_detector_at_every_batch_size(
    backend: OnnxBackend, digits_detector: Detector, digit_pixels: Pixels
) -> None:
    assert backend.name == f"onnxruntime {ort.__version__} cpu fp32"
    for size in (1, 3, 50):
        expected = digits_detector.score(digit_pixels[:size])
        np.testing.assert_allclose(backend(digit_pixels[:size]).anomaly_score, expected, rtol=1e-5)


def test_maps_and_reconstructions_are_those_of_the_detector(
    backend: OnnxBackend, digits_detector: Detector, digit_pixels: Pixels
) -> None:
    (expected,) = digits_detector.iter_predictions(digit_pixels[:7])
    for actual, values in zip(backend(digit_pixels[:7])[1:], expected[1:], strict=True):
        np.testing.assert_allclose(np.array(actual), np.array(values), atol=1e-5)


def test_a_session_for_single_threads_is_created_for_the_first_full_batch(
    exported: Path, digit_pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def create(graph: bytes, n_threads: int) -> ort.InferenceSession:
        threads.append(n_threads)
        return create_session(graph, n_threads)

    monkeypatch.setattr(onnx_backend, "create_session", create)
    graph, manifest, _ = onnx_file.read_onnx(exported)
    backend = OnnxBackend(graph, manifest.input, exported, threads=2)
    assert backend.streams == 2
    assert threads == [2]
    for _ in range(2):
        first = backend.score_single_threaded(digit_pixels[:5])
        np.testing.assert_allclose(first.anomaly_score, backend(digit_pixels[:5]).anomaly_score, rtol=1e-6)
    assert threads == [2, 1]


def test_pixels_of_another_shape_are_an_error_in_one_line(backend: OnnxBackend) -> None:
    with pytest.raises(ArtifactError, match="its graph does not run") as raised:
        backend(np.zeros((1, 9, 8, 1), dtype=np.uint8))
    assert "\n" not in str(raised.value)


def test_a_graph_that_onnx_runtime_cannot_load_is_refused(exported: Path, tmp_path: Path) -> None:
    _, manifest, tensors = onnx_file.read_onnx(exported)
    onnx_file.save_onnx(tmp_path / "part.onnx", b"\x08\x07", manifest, tensors)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        Detector.load(tmp_path / "part.onnx")
