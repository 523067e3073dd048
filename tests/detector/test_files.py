"""What a detector writes: names of files, their content, and the runtimes that run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oddlens.config.base import RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.detector import files
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError


def test_a_detector_of_an_onnx_file_cannot_be_saved_as_weights(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"can only be saved as \.onnx"):
        Detector.load(exported).save(tmp_path / "part.safetensors")


def test_saving_does_not_export(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="use `oddlens export`"):
        Detector.load(saved).save(tmp_path / "part.onnx")


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_content_is_that_of_the_file(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path: Path = request.getfixturevalue(kind)
    detector = Detector.load(path)
    assert files.file_content(detector) == detector.save(tmp_path / f"again{path.suffix}").read_bytes()


@pytest.mark.parametrize(("kind", "engine"), [("saved", "torch"), ("exported", "onnxruntime")])
def test_a_runtime_runs_its_kind_of_file_only(
    kind: str, engine: str, request: pytest.FixtureRequest, digit_pixels: Pixels
) -> None:
    detector = Detector.load(request.getfixturevalue(kind), device="cpu")
    backend = files.open_runtime(detector, RuntimeSettings.model_validate({"engine": engine}))
    scores = backend(digit_pixels[:4]).anomaly_score
    np.testing.assert_allclose(scores, detector.score(digit_pixels[:4]), rtol=1e-4)
    other = "onnxruntime" if engine == "torch" else "torch"
    with pytest.raises(SettingsError, match=f"{other} does not run this detector"):
        files.open_runtime(detector, RuntimeSettings.model_validate({"engine": other}))
