"""Tests of the size of an environment."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

from benchmark_cells import BENCHMARKS

SCRIPT = BENCHMARKS / "peers/installed.py"


def test_size_leaves_out_pip_and_setuptools(tmp_path: Path) -> None:
    for name, size in (("torch/a.py", 2_000_000), ("pip/b.py", 5_000_000), ("setuptools/c.py", 5_000_000)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(size))
    assert runpy.run_path(str(SCRIPT))["megabytes"](tmp_path) == 2.0


def test_import_time_is_that_of_the_statement() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "import time; time.sleep(0.2)"], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["seconds_import"] >= 0.1
    assert result["packages"] > 5
