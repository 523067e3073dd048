"""Detectors in forked and spawned processes, and in several threads at once.

Each program that forks is a process of its own: PyTorch must have started threads in it before.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens.config.base import RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector

START = """
import os, signal, sys
import numpy as np
from oddlens import Detector, TrainingSettings

path, pixels = sys.argv[1], np.load(sys.argv[2])
if path.endswith(".safetensors"):
    import torch
    torch.set_num_threads(2)
    torch.ones(500, 500) @ torch.ones(500, 500)  # starts the threads
detector = Detector.load(path, device="cpu", threads=2)

def fork(work):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.alarm(100)  # or a child that hangs would never end
    work()
    sys.exit(0)  # frees the detector, as the end of any program does
"""
SCORE = """
few, many = detector.score(pixels[:200]), detector.score(pixels)  # with all threads, and in batches of one thread each

def score():
    np.testing.assert_allclose(detector.score(pixels[:200]), few, rtol=1e-5)
    np.testing.assert_allclose(detector.score(pixels), many, rtol=1e-5)
    np.testing.assert_allclose(Detector.load(path, device="cpu", threads=2).score(pixels[:200]), few, rtol=1e-5)

def score_in_grandchild():
    score()
    assert fork(score) == 0

assert fork(lambda: None) == 0
assert fork(score_in_grandchild) == 0
np.testing.assert_array_equal(detector.score(pixels[:200]), few)
"""
POOL = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    verdicts = pool.map_async(detector.predict, [pixels[:100]] * 4).get(timeout=100)
expected = detector.predict(pixels[:100])
assert all(child.verdict == expected.verdict for child in verdicts)
"""
FIT = """
def fit():
    child = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(pixels[:150])
    assert np.isfinite(child.score(pixels[:5])).all()

assert fork(fit) == 0
"""
LOAD = """
def load():
    np.testing.assert_allclose(Detector.load(path, device="cpu").score(pixels[:200]), few, rtol=1e-5)

few = detector.score(pixels[:200])
assert fork(load) == 0
"""


@pytest.fixture(scope="module")
def pixel_file(digit_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "digits.npy"
    np.save(path, np.concatenate([digit_pixels[:300], digit_pixels[:300]]))  # more than two batches
    return path


@pytest.fixture(scope="module")
def in_openvino(exported: Path, digit_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    return recalibrated(exported, RuntimeSettings(engine="openvino"), tmp_path_factory)


@pytest.fixture(scope="module")
def in_bf16(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recalibrated(saved, RuntimeSettings(precision="bf16"), tmp_path_factory)


def recalibrated(path: Path, runtime: RuntimeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fresh = np.random.default_rng(0).integers(0, 17, (150, 8, 8)).astype(np.uint8)
    detector = Detector.load(path, device="cpu").calibrate(fresh, runtime=runtime)
    return detector.save(tmp_path_factory.mktemp("runtime") / path.name)


def run(program: str, *arguments: object) -> None:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["saved", "in_bf16", "exported", "in_openvino"])
def test_a_forked_process_scores_as_its_parent_and_ends(
    kind: str, pixel_file: Path, request: pytest.FixtureRequest
) -> None:
    run(START + SCORE, request.getfixturevalue(kind), pixel_file)


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_a_pool_of_forked_processes_gives_the_verdicts_of_its_parent(
    kind: str, pixel_file: Path, request: pytest.FixtureRequest
) -> None:
    run(START + POOL, request.getfixturevalue(kind), pixel_file)


def test_a_detector_can_be_fitted_in_a_forked_process(saved: Path, pixel_file: Path) -> None:
    run(START + FIT, saved, pixel_file)


def test_a_detector_can_be_loaded_in_a_forked_process_whose_parent_used_pytorch_itself(
    saved: Path, exported: Path, pixel_file: Path
) -> None:
    """The parent loads the exported file, so that only the child imports what runs the other one."""
    uses_torch = "import torch\ntorch.set_num_threads(2)\ntorch.ones(500, 500) @ torch.ones(500, 500)\n"
    run(START + uses_torch + "path = sys.argv[3]\n" + LOAD, exported, pixel_file, saved)


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_a_spawned_process_gets_a_detector_by_the_bytes_of_its_file(
    kind: str, request: pytest.FixtureRequest, digit_pixels: Pixels
) -> None:
    detector = Detector.load(request.getfixturevalue(kind), device="cpu", threads=1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        verdicts = pool.submit(detector.predict, digit_pixels[:20]).result(timeout=100)
    np.testing.assert_allclose(verdicts.anomaly_score, detector.score(digit_pixels[:20]), rtol=1e-5)


@pytest.mark.parametrize("kind", ["saved", "exported", "in_openvino"])
def test_several_threads_score_with_one_detector(
    kind: str, request: pytest.FixtureRequest, digit_pixels: Pixels
) -> None:
    detector = Detector.load(request.getfixturevalue(kind), device="cpu", threads=2)
    parts = [np.roll(digit_pixels[:n], 1, axis=0) for n in (1, 7, 100, 300, 300, 1)]
    expected = [detector.score(part) for part in parts]

    def maps(part: Pixels) -> Pixels:
        return np.concatenate([outputs.anomaly_map for outputs in detector.iter_predictions(part, batch=50)])

    expected_maps = [maps(part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        scores = [pool.submit(detector.score, part) for part in parts]
        verdicts = [pool.submit(detector.predict, part) for part in parts]
        all_maps = [pool.submit(maps, part) for part in parts]
        for i, part in enumerate(parts):
            np.testing.assert_allclose(scores[i].result(), expected[i], rtol=1e-5)
            np.testing.assert_allclose(verdicts[i].result().anomaly_score, expected[i], rtol=1e-5)
            np.testing.assert_allclose(all_maps[i].result(), expected_maps[i], rtol=1e-4, atol=1e-7)
            assert len(all_maps[i].result()) == len(part)


def test_scoring_leaves_pytorch_the_number_of_threads_that_the_user_has_set_meanwhile(
    saved: Path, digit_pixels: Pixels
) -> None:
    before = torch.get_num_threads()
    detector = Detector.load(saved, device="cpu")
    try:
        torch.set_num_threads(before + 2)
        detector.backend.score_single_threaded(digit_pixels[:5])
        detector.score(digit_pixels)
        assert torch.get_num_threads() == before + 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == before + 2
    finally:
        torch.set_num_threads(before)
