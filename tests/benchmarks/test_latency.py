"""Tests of the latency benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import latency
import pytest


def test_row_shows_median_and_95th_percentile() -> None:
    row = latency.row("one image", [float(i) for i in range(1, 101)])
    assert row == ("one image", "50.50 ms", "95.95 ms")


def test_a_program_runs_without_the_current_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    program = "import os, sys; print(os.environ.get('PYTHONPATH'), *sys.argv[1:])"
    assert latency.run(Path(sys.executable), program, 3, "x") == "None 3 x\n"


@pytest.mark.parametrize("program", ["WARM", "IMPORT"])
def test_programs_for_the_other_environment_compile(program: str) -> None:
    compile(getattr(latency, program), program, "exec")


def test_warm_program_uses_public_names_only() -> None:
    assert latency.run(Path(sys.executable), "from oddlens import Detector; print(Detector.load.__name__)") == "load\n"
    assert "from oddlens import Detector\n" in latency.WARM
