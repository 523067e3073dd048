"""Tests of the peers' environments."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import environments
import pytest

from oddlens.errors import OddlensError


def test_an_environment_with_the_same_requirements_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    requirements = (environments.REQUIREMENTS / "torch.txt").read_bytes()
    (tmp_path / "torch/requirements.txt").write_bytes(requirements)
    monkeypatch.setattr(environments, "VENVS", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: pytest.fail("it was created again"))
    assert environments.environment("torch") == tmp_path / "torch/bin/python"


@pytest.mark.parametrize("returncode", [0, 1])
def test_changed_requirements_are_installed_and_recorded_only_on_success(
    returncode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    record = tmp_path / "torch/requirements.txt"
    record.write_text("torch==1.0")
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, returncode if "pip" in command else 0)

    monkeypatch.setattr(environments, "VENVS", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    if returncode:
        with pytest.raises(OddlensError, match="the environment torch could not be created"):
            environments.environment("torch")
    else:
        environments.environment("torch")
    assert [command[2] for command in commands] == ["venv", "pip"]
    assert (record.read_text() == "torch==1.0") == bool(returncode)


def test_size_leaves_out_pip_and_setuptools(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    for name, size in (("torch/a.py", 2_000_000), ("pip/b.py", 5_000_000), ("setuptools/c.py", 5_000_000)):
        (packages / name).parent.mkdir(parents=True)
        (packages / name).write_bytes(bytes(size))
    assert environments.megabytes(tmp_path / "bin/python") == pytest.approx(2.0, rel=0.01)
