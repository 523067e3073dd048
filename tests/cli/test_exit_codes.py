"""Exit codes: 1 with one line for what cannot be done, 2 for wrong usage; and what all commands have."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import error_of, oddlens

from oddlens import __version__
from oddlens.cli import COMMANDS


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_missing_path_is_exit_code_1(command: str, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "p.safetensors"] if command == "fit" else []
    assert "nowhere" in error_of(command, tmp_path / "nowhere", *output)
    assert list(tmp_path.iterdir()) == []


def test_missing_images_and_detectors_are_exit_code_1(part: Path, tmp_path: Path) -> None:
    assert "nowhere" in error_of("score", part, tmp_path / "nowhere", "-o", tmp_path / "v.csv")
    assert "nowhere.safetensors" in error_of("score", tmp_path / "nowhere.safetensors", tmp_path)
    assert "nowhere.safetensors" in error_of("show", tmp_path / "nowhere.safetensors")
    assert "minst" in error_of("run", "minst")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"],
        ["score"],
        ["nonsense"],
        ["fit", "x", "--epochs", "many", "-o", "y"],
        ["run", "mnist", "--device", "tpu"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    error_of(*arguments, code=2)


def test_the_version_is_printed() -> None:
    assert oddlens("--version").stdout == f"oddlens {__version__}\n"


def test_a_closed_pipe_is_not_a_traceback() -> None:
    command = f"{sys.executable} -m oddlens check digits --budget 0 | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_the_options_that_all_share(name: str) -> None:
    assert {"as_json", "threads", "seed"} <= inspect.signature(COMMANDS[name]).parameters.keys()
