"""Smoke tests: every script imports and prints its help."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from benchmark_cells import BENCHMARKS

ENTRY_POINT = 'if __name__ == "__main__":'
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py") if ENTRY_POINT in path.read_text(encoding="utf-8"))
WITHOUT_HELP = {"code_digest.py", "installed.py"}
PEERS = {
    "anomalib_peer.py",
    "plain_keras_mnist.py",
    "plain_pytorch_cifar.py",
    "plain_pytorch_mnist.py",
    "plain_serving.py",
    "pyod_cifar.py",
}


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path.name not in PEERS | WITHOUT_HELP], ids=lambda path: path.name
)
def test_script_prints_its_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(script), run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")


@pytest.mark.parametrize("script", ["plain_pytorch_cifar.py", "plain_pytorch_mnist.py"])
def test_peer_script_prints_its_help(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / "peers" / script), run_name="__main__")
    assert "--data" in capsys.readouterr().out
