"""What all runtimes have in common: names of inputs and outputs, streams, predictions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens.config.base import RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.inference.backend import MAX_STREAMS, count_streams, graph_outputs, to_predictions


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_streams_of_one_thread_give_the_same_scores(
    digits_detector: Detector, exported: Path, digit_pixels: Pixels, digits: DataSet, runtime: str
) -> None:
    detector = digits_detector if runtime == "torch" else Detector.load(exported)
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino")
        detector = detector.calibrate(digits.test, runtime=RuntimeSettings(engine="openvino"))
    backend, parts = detector.backend, [digit_pixels[i : i + 40] for i in (0, 40, 80, 120)]
    before = torch.get_num_threads()
    assert backend.streams >= 1
    with ThreadPoolExecutor(2) as pool:
        streamed = list(pool.map(backend.score_single_threaded, parts))
    for alone, part in zip(streamed, parts, strict=True):
        whole = backend(part)
        np.testing.assert_allclose(alone.anomaly_score, whole.anomaly_score, rtol=1e-6)
        assert alone.anomaly_map is not None
        assert whole.anomaly_map is not None
        np.testing.assert_allclose(alone.anomaly_map, whole.anomaly_map, atol=1e-6)
    assert torch.get_num_threads() == before


def test_a_graph_may_lack_map_and_reconstruction_but_not_the_score() -> None:
    outputs = ["reconstruction", "anomaly_score"]
    assert graph_outputs(["pixels"], outputs, Path("x")) == ["anomaly_score", "reconstruction"]
    for inputs, names in (
        (["image"], outputs),
        (["pixels", "more"], outputs),
        (["pixels"], ["anomaly_map"]),
        (["pixels"], ["anomaly_score", "logits"]),
    ):
        with pytest.raises(ArtifactError, match=r"x\.onnx: is not the graph of a detector \(inputs "):
            graph_outputs(inputs, names, Path("x.onnx"))


def test_predictions_have_float64_scores_and_reconstructions_with_channels_last() -> None:
    values = {"anomaly_score": np.ones(2, np.float32), "reconstruction": np.zeros((2, 3, 4, 5), np.float32)}
    predictions = to_predictions(values)
    assert predictions.anomaly_score.dtype == np.float64
    assert predictions.anomaly_map is None
    assert predictions.reconstruction is not None
    assert predictions.reconstruction.shape == (2, 4, 5, 3)


def test_there_are_as_many_streams_as_threads_up_to_a_limit() -> None:
    assert [count_streams(threads) for threads in (1, 2, MAX_STREAMS, 1000)] == [1, 2, MAX_STREAMS, MAX_STREAMS]
    assert 1 <= count_streams(None) <= MAX_STREAMS
