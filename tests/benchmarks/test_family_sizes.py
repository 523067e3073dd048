"""Tests of the benchmark of sizes of files and of memory."""

from __future__ import annotations

import json
from pathlib import Path

import family_sizes
import pytest
from photo_folders import write_parts


def test_sizes_are_those_of_files_that_were_fitted_exported_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parts(tmp_path / "caps")
    words = ["--set", "caps", "--families", "autoencoder", "--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert family_sizes.main(words) == 0
    (cached,) = (tmp_path / "cache").iterdir()
    sizes = json.loads(cached.read_text())
    assert 1e4 < sizes["file"][0] < 1e7
    assert 3e7 < sizes["memory"][1] < sizes["memory"][0] < 2e9, "PyTorch takes more"
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "caps" in line and "autoencoder |" in line)
    assert row.count("MB") == 4


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="oddlens show ended with exit code 1"):
        family_sizes.peak_memory("show", "no.onnx")
