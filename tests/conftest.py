"""Fixtures for all tests: small real images, a fitted detector and its files, the folder of real data sets."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import quick_exporter  # noqa: F401 - it changes the exporter
from postgresql_server import new_schema, postgresql_server

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.detector.export import export

FIRST = ("tests/pages/", "tests/service/")  # these wait, so none should run alone at the end


def pytest_configure(config: pytest.Config) -> None:
    """Hide from the processes that tests start what `make test` tells glibc, which has read it in the tests' own.

    There it keeps freed memory: the laws of the detectors then have a fifth of the page faults.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
            os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


def pytest_collection_finish() -> None:
    """Spare the garbage collector modules and tests, which live until the end, and let it look at new objects seldom.

    PyTorch's exporter makes so many that it would look at all of them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="session")
def digits() -> DataSet:
    """Scikit-learn's handwritten digits, 8 x 8, all classes normal."""
    return open_dataset("digits")


@pytest.fixture(scope="session")
def digit_pixels(digits: DataSet) -> Pixels:
    """The training digits as one array."""
    return digits.train.load(digits.train.choose_spec(None))


@pytest.fixture(scope="session")
def small_model() -> AutoencoderSettings:
    """An autoencoder that trains in a second."""
    return AutoencoderSettings(architecture="pooling", widths=(8, 16), loss="bce")


@pytest.fixture(scope="session")
def digits_detector(digit_pixels: Pixels, small_model: AutoencoderSettings) -> Detector:
    """A detector fitted and calibrated on digits; tests do not change it."""
    return Detector(small_model, training=TrainingSettings(epochs=3)).fit(digit_pixels)


@pytest.fixture(scope="session")
def saved(digits_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `.safetensors` file of `digits_detector`; tests do not change it."""
    return digits_detector.save(tmp_path_factory.mktemp("saved") / "part.safetensors")


@pytest.fixture(scope="session")
def exported(digits_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `.onnx` file of `digits_detector`; tests do not change it."""
    path = tmp_path_factory.mktemp("exported") / "part.onnx"
    export(digits_detector, path)
    return path


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a private PostgreSQL server."""
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that does not exist yet, in each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/parts.db"
    return new_schema(request.getfixturevalue("postgresql"), tmp_path / "files")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with MNIST, CIFAR-10 and the magnetic tiles; tests that need it are skipped without it."""
    folder = os.environ.get("ODDLENS_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data sets: set ODDLENS_DATA to their folder")
    return Path(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def no_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caches and mirrors of the machine that runs the tests."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("ODDLENS_MIRROR", raising=False)
