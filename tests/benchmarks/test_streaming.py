"""Tests of the streaming benchmark."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import streaming
from dataset_files import write_idx_files
from PIL import Image


def test_files_are_distinct_and_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx_files(tmp_path / "MNIST/raw")
    folder = tmp_path / "images"
    for _ in range(2):
        streaming.make_images(folder, 30, tmp_path)
    files = sorted(folder.rglob("*.png"))
    assert len(files) == len({path.read_bytes() for path in files}) == 30
    with Image.open(files[29]) as image:
        assert np.asarray(image)[0, :4].tolist() == [29, 0, 0, 0]
    assert "0 of 30 files" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_resident_memory_is_that_of_a_live_process() -> None:
    assert streaming.resident(os.getpid()) > 10
    assert streaming.resident(2**22 + 1) == 0


def test_memory_is_sampled_until_the_command_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(0.4)"]
    samples = streaming.sample_memory(command, tmp_path / "verdicts.csv", count=5)
    assert len(samples) >= 2
    assert samples[-1].seconds > samples[0].seconds


def test_a_failed_command_ends_the_script(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed with exit code 3"):
        streaming.sample_memory([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "verdicts.csv", 5)
