"""The examples in JavaScript and C++: they score an exported file as Python does, and refuse what they cannot score."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from oddlens.artifact import onnx_file
from oddlens.config.base import TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector

EXAMPLES = Path(__file__).parent.parent / "examples"
HEADERS = [Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))]
Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def colour_pixels() -> Pixels:
    """Colour images that are wider than high, so that no two of their sides can be mixed up."""
    return np.random.default_rng(0).integers(0, 256, (80, 12, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def colour_part(colour_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported detector of these images."""
    path = tmp_path_factory.mktemp("languages") / "part.onnx"
    Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(colour_pixels[:60]).export(path)
    return path


def javascript_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the example in JavaScript."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    if subprocess.run(["node", "-e", "require('onnxruntime-node')"], capture_output=True, check=False).returncode:
        pytest.skip("needs onnxruntime-node: npm install onnxruntime-node, and NODE_PATH for its folder")
    return ["node", str(EXAMPLES / "score.js")]


def cpp_command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the example in C++, compiled with the library of the Python package."""
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("needs a C++ compiler")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").exists()), None)
    if headers is None:
        pytest.skip("needs ONNX Runtime's C++ headers: ONNXRUNTIME_INCLUDE for their folder")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("needs libonnxruntime.so in the package onnxruntime")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    options = ["-std=c++17", "-isystem", str(headers), "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *options, str(EXAMPLES / "score.cpp"), f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime"]
    subprocess.run([*command, "-o", str(folder / "score")], check=True)
    return [str(folder / "score")]


@pytest.fixture(scope="module", params=[javascript_command, cpp_command], ids=["javascript", "cpp"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Run an example with arguments."""
    command = request.param(tmp_path_factory)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The line of an error of a program that printed nothing else."""
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_scores_threshold_and_verdict_are_those_of_python(
    program: Program, colour_part: Path, colour_pixels: Pixels, tmp_path: Path
) -> None:
    images = np.concatenate([colour_pixels[60:62], np.zeros((1, 12, 20, 3), np.uint8)])
    paths = [tmp_path / f"{i}.ppm" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    expected = Detector.load(colour_part).predict(paths)
    results = [json.loads(program(colour_part, path).stdout) for path in paths]
    scores = np.array([result["anomaly_score"] for result in results])
    difference = np.max(np.abs(scores - expected.anomaly_score) / expected.anomaly_score)
    print(f"largest relative difference of scores: {difference:.1e}")
    assert difference <= 1e-5
    assert [result["threshold"] for result in results] == expected.threshold.tolist()
    assert [result["verdict"] for result in results] == expected.verdict


def test_a_threshold_that_was_changed_is_read(program: Program, colour_part: Path, tmp_path: Path) -> None:
    detector = Detector.load(colour_part)
    moved = detector.set_decision(detector.manifest.decision.model_copy(update={"false_alarm_rate": 0.3}))
    Image.new("RGB", (20, 12)).save(tmp_path / "black.ppm")
    result = json.loads(program(moved.save(tmp_path / "moved.onnx"), tmp_path / "black.ppm").stdout)
    assert result["threshold"] == moved.decision_.threshold != Detector.load(colour_part).decision_.threshold


def test_what_cannot_be_scored_is_refused(
    program: Program, colour_part: Path, colour_pixels: Pixels, tmp_path: Path
) -> None:
    image = tmp_path / "image.ppm"
    for size, mode in (((12, 20), "RGB"), ((20, 12), "L")):
        Image.new(mode, size).save(image)
        assert "image.ppm: is no " in error_of(program(colour_part, image))
    Image.new("RGB", (20, 12)).save(image)
    image.write_bytes(image.read_bytes()[:-1])
    assert "image.ppm: is " in error_of(program(colour_part, image))
    assert "missing.ppm" in error_of(program(colour_part, tmp_path / "missing.ppm"))
    Image.new("RGB", (20, 12)).save(image)
    graph, manifest, tensors = onnx_file.read_onnx(colour_part)
    without = onnx_file.save_onnx(tmp_path / "without.onnx", graph, manifest, tensors)
    assert "export it again" in error_of(program(without, image))
    images = replace(ImageSet.from_array(colour_pixels[60:]), groups=("a", "b") * 10)
    groups = Detector.load(colour_part).calibrate(images)
    assert "each group" in error_of(program(groups.save(tmp_path / "groups.onnx"), image))
