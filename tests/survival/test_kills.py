"""A process that is killed while it saves leaves the old file or the new one, as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
FILES = [TESTS / "compatibility" / name for name in ("digits.safetensors", "tiles.onnx")]


@pytest.mark.parametrize("kills", [5, pytest.param(1000, marks=pytest.mark.survive)])
def test_no_kill_during_a_save_loses_or_damages_a_file(kills: int, tmp_path: Path) -> None:
    command = [sys.executable, TESTS / "killed_saves.py", tmp_path, *FILES, "--kills", kills]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 8
