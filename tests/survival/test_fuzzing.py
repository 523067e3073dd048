"""What reads users' files takes any bytes: it reads them, or refuses them with an error of oddlens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import TARGETS, check

FUZZING = Path(__file__).parent.parent / "fuzzing.py"
FINDINGS = sorted((Path(__file__).parent / "findings").glob("*-*"))


def fuzz(folder: Path, seconds: float, *targets: str) -> None:
    command = [sys.executable, FUZZING, *targets, "--seconds", seconds, "--keep", folder]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(targets)


def test_a_second_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    fuzz(tmp_path, 0.3, *TARGETS)


@pytest.mark.survive
@pytest.mark.parametrize("target", TARGETS)
def test_ten_minutes_of_fuzzing_find_nothing(target: str, tmp_path: Path) -> None:
    fuzz(tmp_path, 600, target)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
@pytest.mark.parametrize("as_errors", [False, True])
def test_what_fuzzing_found_is_read_or_refused(path: Path, as_errors: bool, tmp_path: Path) -> None:
    check(TARGETS[path.name.partition("-")[0]](), path.read_bytes(), tmp_path, as_errors)
