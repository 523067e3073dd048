"""Loading: the runtime of the file, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_files import write_changed

from oddlens.artifact.loading import load_verified
from oddlens.config.base import RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError


def test_another_kind_of_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"end in \.safetensors or \.onnx"):
        Detector.load(tmp_path / "model.pt")


def test_a_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="oddlens fit"):
        Detector.load(tmp_path / "part.safetensors")


def test_a_gpu_is_refused_for_an_exported_file(exported: Path) -> None:
    with pytest.raises(SettingsError, match="run on the CPU"):
        Detector.load(exported, device="cuda")


def test_a_safetensors_file_is_loaded_into_torch_and_an_onnx_file_into_onnx_runtime(
    saved: Path, exported: Path, digits_detector: Detector, digit_pixels: Pixels
) -> None:
    scores = digits_detector.score(digit_pixels[:20])
    for path, engine in ((saved, "torch"), (exported, "onnxruntime")):
        loaded = load_verified(path, "cpu")
        assert loaded.manifest.runtime == RuntimeSettings(engine=engine)  # type: ignore[arg-type]
        assert loaded.backend.name.startswith(engine)
        assert (loaded.graph is None) == (engine == "torch")
        np.testing.assert_allclose(loaded.backend(digit_pixels[:20]).anomaly_score, scores, rtol=1e-4)


def test_the_number_of_threads_reaches_the_runtime(exported: Path) -> None:
    assert load_verified(exported, "cpu", threads=3).backend.streams == 3


def test_a_safetensors_file_of_another_runtime_is_refused(saved: Path, tmp_path: Path) -> None:
    path = write_changed(
        saved,
        tmp_path / "part.safetensors",
        lambda values, _: values["runtime"].update(engine="openvino"),
        matching_digest=True,
    )
    with pytest.raises(ArtifactError, match=r"says that it runs with openvino, which runs only \.onnx files"):
        load_verified(path, "cpu")
