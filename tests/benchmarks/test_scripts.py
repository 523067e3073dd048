"""Smoke tests: every script imports and prints its help."""

from __future__ import annotations

import json
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_cells import BENCHMARKS

ENTRY_POINT = 'if __name__ == "__main__":'
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py") if ENTRY_POINT in path.read_text(encoding="utf-8"))
PEERS = {"anomalib_peer.py", "plain_pytorch.py", "plain_serving.py"}  # their packages are not installed here


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.name not in PEERS], ids=lambda path: path.name)
def test_script_prints_its_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")


def test_a_plain_script_scores_with_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), b"labels": [0, 1] * 10}
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    monkeypatch.setattr("sys.argv", ["plain_pytorch.py", "cifar", "--data", str(tmp_path), "--epochs", "0"])
    before = torch.get_num_threads()
    runpy.run_path(str(BENCHMARKS / "peers/plain_pytorch.py"), run_name="__main__")
    torch.set_num_threads(before)
    result = json.loads(capfd.readouterr().out)
    assert result["images"] == 50
    assert result["images_per_second"] > 0
