"""The core install: a fresh environment without extras scores an exported detector.

It is installed from the source distribution, from which pip builds the wheel.
"""

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
EXTRAS = (
    "torch", "sklearn", "scipy", "matplotlib", "onnx", "onnxscript", "pooch", "jinja2", "pyarrow", "openvino",
    "sqlalchemy", "alembic", "psycopg", "fastapi", "ray", "fsspec", "s3fs",
)  # fmt: skip
MAX_INSTALL_SIZE = 220e6  # bytes, without pip
# Runs the command line; importing a package of the extras raises an error that nothing catches.
PROGRAM = f"""
import sys

class ForbiddenImport(BaseException):
    pass

class ImportGuard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ForbiddenImport(name)

sys.meta_path.insert(0, ImportGuard())
from oddlens.cli import main
main()
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment in which only this working tree's source distribution is installed."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("bare") / "venv"
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder.parent)], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.parent.glob("oddlens-*.tar.gz")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--retries", "1", str(sdist)], capture_output=True, text=True, check=False, env=environment()
    )
    if "connection broken" in done.stderr + done.stdout:
        pytest.skip("the package index cannot be reached, so nothing can be installed")
    assert done.returncode == 0, done.stderr
    return python


def environment() -> dict[str, str]:
    """The environment variables of this process, without those that point to packages of another environment."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(python: Path, program: str, *arguments: object) -> str:
    command = [str(python), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_is_installed_without_extras(bare: Path) -> None:
    program = (
        "import importlib.util, oddlens, sys\n"
        f"print([name for name in {EXTRAS} if importlib.util.find_spec(name)])\n"
        "print(oddlens.__file__.startswith(sys.prefix))"
    )
    assert run(bare, program).split("\n")[:2] == ["[]", "True"]


def test_the_install_is_small(bare: Path) -> None:
    folder = bare.parent.parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"the core install takes {size / 1e6:.0f} MB")
    assert size <= MAX_INSTALL_SIZE


def test_scores_are_those_of_the_original_detector_and_the_threshold_can_be_changed(
    bare: Path, digits_detector: Detector, digits: DataSet, tmp_path: Path
) -> None:
    part, images, output = tmp_path / "part.onnx", tmp_path / "images", tmp_path / "verdicts.csv"
    export(digits_detector, part)
    images.mkdir()
    for i in range(50):
        Image.fromarray(digits.test.image(i)[:, :, 0]).save(images / f"{i:02}.png")
    run(bare, PROGRAM, "threshold", part, "--false-alarm-rate", "0.1")
    run(bare, PROGRAM, "score", part, images, "-o", output, "--maps", tmp_path / "maps")
    rows = [line.split(",") for line in output.read_text().splitlines()[1:]]
    expected = digits_detector.score(images)
    np.testing.assert_allclose([float(row[1]) for row in rows], expected, rtol=1e-5)
    calibration_scores = digits_detector.decision_.calibration_scores
    threshold = np.sort(calibration_scores)[-int(0.1 * (len(calibration_scores) + 1))]
    assert [row[5] for row in rows] == ["anomaly" if score > threshold else "normal" for score in expected]
    assert len(list((tmp_path / "maps").iterdir())) == 50
