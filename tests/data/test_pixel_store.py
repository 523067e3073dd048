"""Decoded pixels are stored in memory or in a temporary file."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from oddlens.config.base import TrainingSettings
from oddlens.data import pixel_store
from oddlens.data.pixel_store import BLOCK_SIZE, allocate_pixels, take_rows
from oddlens.detector.detector import Detector
from oddlens.errors import DataError


def in_file(pixels: np.ndarray) -> bool:
    """Whether an array is stored in a file."""
    return isinstance(pixels.base, np.memmap)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Store all arrays in files; returns the folder of temporary files."""
    monkeypatch.setattr(pixel_store, "MAX_IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_small_arrays_are_in_memory() -> None:
    assert not in_file(allocate_pixels((2, 4, 4, 1), np.uint8))


def test_large_arrays_are_in_an_unnamed_file(small_memory: Path) -> None:
    pixels = allocate_pixels((3, 4, 5, 1), np.uint16)
    pixels[:] = 7
    assert in_file(pixels)
    assert pixels.shape == (3, 4, 5, 1)
    assert pixels.dtype == np.uint16
    assert int(pixels.sum()) == 7 * 60
    if sys.platform != "win32":  # on Windows an open file has a name
        assert not list(small_memory.iterdir())


def test_a_full_disk_is_reported_before_anything_is_stored(small_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(10, 1, 9))
    with pytest.raises(DataError, match="TMPDIR"):
        allocate_pixels((1, 5, 2, 1), np.uint8)
    allocate_pixels((1, 3, 3, 1), np.uint8)


def test_rows_are_selected_in_the_order_of_the_index(small_memory: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3 * BLOCK_SIZE, 2, 2, 1), dtype=np.uint8)
    rows = rng.permutation(len(pixels))[: 2 * BLOCK_SIZE + 5]
    assert np.array_equal(take_rows(pixels, rows), pixels[rows])
    assert in_file(take_rows(pixels, rows))
    assert take_rows(pixels, np.arange(len(pixels))) is pixels
    assert len(take_rows(pixels, np.arange(0))) == 0


def test_a_detector_is_the_same_with_pixels_in_memory_and_in_a_file(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = rng.integers(90, 120, (80, 16, 16, 3), dtype=np.uint8)
    detectors = []
    for limit in (2**30, 1000):
        monkeypatch.setattr(pixel_store, "MAX_IN_MEMORY", limit)
        detectors.append(Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(normal))
    first, second = (detector.score(normal[:9]) for detector in detectors)
    assert np.array_equal(first, second)
    assert detectors[0].decision_.threshold == detectors[1].decision_.threshold


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot be given so little memory")
def test_more_pixels_than_fit_in_memory_can_be_loaded() -> None:
    """200 MB of pixels, in a process that may allocate 100 MB more than it has."""
    code = """
import resource, numpy as np
from oddlens.data import pixel_store
from oddlens.data.image_set import ImageSet
images = ImageSet.from_array(np.broadcast_to(np.uint8(9), (1000, 16, 16, 3)))
spec = images.choose_spec(None).model_copy(update={"height": 256, "width": 256})
pixel_store.MAX_IN_MEMORY = NBYTES
images.subset(np.arange(4)).load(spec)  # starts the threads
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 100 * 2**20,) * 2)
print(int(images.load(spec).sum(dtype=np.int64)))
"""
    in_a_file = subprocess.run([sys.executable, "-c", code.replace("NBYTES", "2**20")], capture_output=True, text=True)
    in_memory = subprocess.run([sys.executable, "-c", code.replace("NBYTES", "2**30")], capture_output=True, text=True)
    assert in_a_file.stdout.strip() == str(9 * 1000 * 256 * 256 * 3), in_a_file.stderr
    assert in_memory.returncode != 0
    assert "MemoryError" in in_memory.stderr
