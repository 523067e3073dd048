"""Scoring with PyTorch: float32, and bfloat16 with a calibration of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens.config.base import DecisionSettings, RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import SettingsError, StateError
from oddlens.inference.torch_backend import TorchBackend, resolve_device
from oddlens.models.layers import fast_bf16

BF16 = RuntimeSettings(precision="bf16")


@pytest.fixture(scope="module")
def in_bf16(digits_detector: Detector, digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = digits_detector.save(tmp_path_factory.mktemp("runtime") / "part.safetensors")
    detector = Detector.load(path, device="cpu")
    detector.calibrate(digits.test, decision=DecisionSettings(false_alarm_rate=0.1), runtime=BF16)
    return detector.save(path)


def test_scores_are_in_float32_by_default(digits_detector: Detector) -> None:
    assert digits_detector.manifest.runtime == RuntimeSettings(engine="torch", precision="fp32")
    assert digits_detector.backend.name.endswith("fp32")


def test_bf16_changes_scores_a_little_and_the_saved_file_scores_in_bf16(
    in_bf16: Path, digits_detector: Detector, digits: DataSet
) -> None:
    loaded = Detector.load(in_bf16, device="cpu")
    assert loaded.manifest.runtime == BF16
    assert loaded.backend.name == f"torch {torch.__version__} cpu bf16" + (
        "" if fast_bf16(torch.device("cpu")) else ", emulated"
    )
    scores = loaded.score(digits.test)
    assert 0 < np.abs(scores / digits_detector.score(digits.test) - 1).max() < 0.02
    np.testing.assert_array_equal(np.sort(scores), loaded.decision_.calibration_scores)
    (outputs,) = loaded.iter_predictions(digits.test.subset(np.arange(3)))
    assert outputs.anomaly_map is not None
    assert outputs.anomaly_map.dtype == np.float32


def test_a_detector_calibrated_in_bf16_is_not_exported(in_bf16: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="calibrate it with --precision fp32 first"):
        export(Detector.load(in_bf16, device="cpu"), tmp_path / "part.onnx")


def test_recalibration_returns_a_detector_to_float32(in_bf16: Path, digits_detector: Detector, digits: DataSet) -> None:
    detector = Detector.load(in_bf16, device="cpu").calibrate(digits.test, runtime=RuntimeSettings())
    np.testing.assert_allclose(detector.score(digits.test), digits_detector.score(digits.test), rtol=1e-6)
    assert detector.manifest.runtime == RuntimeSettings()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_and_auto_uses_the_cpu_without_a_cuda_device() -> None:
    with pytest.raises(SettingsError, match="sees no CUDA device; use --device cpu"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


def test_a_forked_process_is_told_how_to_use_the_gpu_that_its_parent_has_used(
    saved: Path, digit_pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Detector.load(saved, device="cpu").backend
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(backend, "device", torch.device("cuda"))
    for use_gpu in (lambda: resolve_device("cuda"), lambda: backend(digit_pixels[:3])):
        with pytest.raises(StateError, match=r"get_context\('spawn'\), or load the detector with device='cpu'"):
            use_gpu()


def test_batches_are_scored_concurrently_as_far_as_there_are_threads(digits_detector: Detector) -> None:
    network = digits_detector.network
    assert network is not None
    before = torch.get_num_threads()
    try:
        for threads, streams in ((1, 1), (2, 2), (64, 8)):
            torch.set_num_threads(threads)
            expected = 1 if network.uses_all_threads else streams
            assert TorchBackend(network, torch.device("cpu")).streams == expected
    finally:
        torch.set_num_threads(before)
