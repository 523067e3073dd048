"""The core install by itself: a fresh environment without any extra scores an exported detector."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.detector.export import export

ROOT = Path(__file__).parent.parent
EXTRAS = ("torch", "sklearn", "scipy", "matplotlib", "onnx", "onnxscript", "pooch", "jinja2", "pyarrow", "openvino")
MOST = 220e6  # bytes that the core install may take, without pip
# Runs the command line; any attempt to import what only extras bring is an error that nothing catches.
PROGRAM = f"""
import sys

class Refused(BaseException):
    pass

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise Refused(name)

sys.meta_path.insert(0, Watch())
from oddlens.cli import main
main()
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment, into which pip has installed this working tree and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--retries", "1", str(ROOT)], capture_output=True, text=True, check=False, env=environment()
    )
    if "connection broken" in done.stderr + done.stdout:
        pytest.skip("the package index cannot be reached, so that nothing can be installed from it")
    assert done.returncode == 0, done.stderr
    return python


def environment() -> dict[str, str]:
    """This process's, without what would let another environment's packages be found."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(python: Path, program: str, *arguments: object) -> str:
    command = [str(python), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_the_core_and_no_extra(bare: Path) -> None:
    program = (
        "import importlib.util, oddlens, sys\n"
        f"print([name for name in {EXTRAS} if importlib.util.find_spec(name)])\n"
        "print(oddlens.__file__.startswith(sys.prefix))"
    )
    assert run(bare, program).split("\n")[:2] == ["[]", "True"]


def test_it_is_small(bare: Path) -> None:
    folder = bare.parent.parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"the core install takes {size / 1e6:.0f} MB")
    assert size <= MOST


def test_it_scores_real_images_as_the_trained_detector_does_and_moves_its_threshold(
    bare: Path, fitted: Detector, digits: DataSet, tmp_path: Path
) -> None:
    part, images, found = tmp_path / "part.onnx", tmp_path / "images", tmp_path / "verdicts.csv"
    export(fitted, part)
    images.mkdir()
    for i in range(50):
        Image.fromarray(digits.test.image(i)[:, :, 0]).save(images / f"{i:02}.png")
    run(bare, PROGRAM, "threshold", part, "--false-alarm-rate", "0.1")
    run(bare, PROGRAM, "score", part, images, "-o", found, "--maps", tmp_path / "maps")
    rows = [line.split(",") for line in found.read_text().splitlines()[1:]]
    expected = fitted.score(images)
    np.testing.assert_allclose([float(row[1]) for row in rows], expected, rtol=1e-5)
    threshold = np.sort(fitted.decision_.calibration_scores)[-int(0.1 * (fitted.manifest.data.n_calibration + 1))]
    assert [row[5] for row in rows] == ["anomaly" if score > threshold else "normal" for score in expected]
    assert len(list((tmp_path / "maps").iterdir())) == 50
