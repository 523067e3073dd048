"""Imports: the core runs without torch, and names are imported on first use."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import oddlens
from oddlens import errors
from oddlens.config import detectors
from oddlens.config.detectors import FAMILIES
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.detector.export import export

HEAVY = (
    "torch", "sklearn", "scipy", "matplotlib", "onnx", "pooch", "jinja2", "pyarrow", "openvino", "sqlalchemy",
    "alembic", "psycopg", "ray", "fsspec", "s3fs",
)  # fmt: skip


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_public_surface_is_pinned() -> None:
    assert oddlens.__all__ == [
        "ArtifactError", "AutoSettings", "AutoencoderSettings", "BackboneOutput", "CalibrationError",
        "CrossfitSettings", "DataError", "DataNotFoundError", "DataSet", "Decision", "DecisionSettings",
        "DefectsSettings", "Detector", "DictionarySettings", "DiskFullError", "EnsembleSettings", "Evaluation",
        "FeaturesSettings", "ImageError", "ImageSet", "InputSpec", "LotTest", "Manifest", "Member",
        "MissingExtraError", "OddlensError", "OnnxBackbone", "PadimSettings", "PatchcoreSettings", "PluginError",
        "Predictions", "RotationSettings", "RuntimeSettings", "SettingsError", "StateError", "StoreError", "Tiling",
        "TrainingError", "TrainingSettings", "UnreadableImageError", "Verdicts", "__version__", "evaluate",
        "open_dataset",
    ]  # fmt: skip
    for name in oddlens.__all__:
        assert getattr(oddlens, name) is not None
    assert dir(oddlens) == oddlens.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        oddlens.nothing  # noqa: B018


def test_every_error_and_the_settings_of_every_family_are_public() -> None:
    names = {error.__name__ for _, error in inspect.getmembers(errors, inspect.isclass)}
    families = {family.__name__ for family in FAMILIES.values() if family.__module__ == detectors.__name__}
    assert (names | families | {"AutoSettings"}) - set(oddlens.__all__) == set()


def public_callables() -> dict[str, object]:
    """Public classes and functions, and the methods of `Detector`, by name."""
    public = {name: getattr(oddlens, name) for name in oddlens.__all__ if name != "__version__"}
    methods = inspect.getmembers(oddlens.Detector, inspect.isroutine)
    return public | {f"Detector.{name}": method for name, method in methods if not name.startswith("_")}


@pytest.mark.parametrize("name", [name for name in public_callables() if not name.endswith("Error")])
def test_a_public_docstring_has_an_example_or_says_where_it_is(name: str) -> None:
    text = inspect.getdoc(public_callables()[name]) or ""
    other = re.search(r"Example: see `(\w+(?:\.\w+)?)`", text)
    assert ">>>" in (text if other is None else inspect.getdoc(public_callables()[other[1]]) or ""), text


def test_importing_the_package_imports_no_dependency_at_all() -> None:
    heavy = (*HEAVY, "numpy", "PIL", "pydantic", "typer", "rich", "safetensors", "onnxruntime")
    assert run(f"import sys, oddlens; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["score", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom oddlens.cli import main\nsys.argv = ['oddlens', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in {(*HEAVY, 'numpy', 'onnxruntime')} if name in sys.modules])"
    )
    assert run(program, *arguments).endswith("heavy: []\n")


def test_a_service_with_all_its_pages_needs_nothing_of_training() -> None:
    """PyTorch would take seconds to start and 180 MB. The jobs that fit and check have processes of their own."""
    program = (
        "import importlib, pkgutil, sys\n"
        "for name in ('torch', 'sklearn', 'scipy', 'matplotlib', 'onnx'): sys.modules[name] = None\n"
        "import oddlens.pages, oddlens.service\n"
        "packages = [oddlens.pages, oddlens.service]\n"
        "names = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')]\n"
        "jobs = [f'oddlens.pages.learning.{name}' for name in ('worker', 'checking', 'fitting')]\n"
        "for name in set(names) - set(jobs): importlib.import_module(name)\n"
        "print(set(jobs) <= set(names), len(names) > 30)"
    )
    assert run(program) == "True True\n"


def test_a_deployed_detector_scores_files_without_torch(
    digits_detector: Detector, digit_pixels: Pixels, tmp_path: Path
) -> None:
    """The packages of the extras cannot be imported here."""
    export(digits_detector, tmp_path / "part.onnx")
    (tmp_path / "images").mkdir()
    for i, image in enumerate(digit_pixels[:5]):
        Image.fromarray(image[:, :, 0]).save(tmp_path / "images" / f"{i}.png")
    program = (
        "import sys\n"
        f"for name in {HEAVY}: sys.modules[name] = None\n"
        "from oddlens.cli import main\n"
        "sys.argv = ['oddlens', 'score', sys.argv[1], sys.argv[2], '-o', sys.argv[3], '--maps', sys.argv[4]]\n"
        "main()\n"
    )
    run(program, tmp_path / "part.onnx", tmp_path / "images", tmp_path / "v.csv", tmp_path / "maps")
    lines = (tmp_path / "v.csv").read_text().splitlines()[1:]
    scores = [float(line.split(",")[1]) for line in lines]
    np.testing.assert_allclose(scores, digits_detector.score(digit_pixels[:5]), rtol=1e-4)
    assert len(list((tmp_path / "maps").iterdir())) == 5


def test_a_command_that_needs_an_extra_names_it(tmp_path: Path, digit_pixels: Pixels) -> None:
    np.save(tmp_path / "digits.npy", digit_pixels[:60])
    program = (
        "import sys\n"
        f"for name in {HEAVY}: sys.modules[name] = None\n"
        "from oddlens.cli import main\n"
        "sys.argv = ['oddlens', 'fit', sys.argv[1], '-o', sys.argv[2]]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "digits.npy"), str(tmp_path / "part.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: fitting a detector needs packages that are not installed: pip install 'oddlens[train]'\n"
    )
