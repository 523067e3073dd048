"""Run the command line as users run it: a process, its exit code, its two streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from oddlens.cli import app

QUICK = ("--detector", "autoencoder")  # fits in a second or two


def oddlens(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with additional environment variables."""
    command = [sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=300
    )


def run_json(*arguments: object, **environment: str) -> dict[str, Any]:
    """The JSON that a command prints with --json; it must succeed."""
    done = oddlens(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def error_of(*arguments: object, code: int = 1, **environment: str) -> str:
    """What a command that must fail prints on stderr: with exit code 1 one line, and never a traceback."""
    done = oddlens(*arguments, **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def invoke(*arguments: object) -> Result:
    """Run a command in this process; its error, if any, is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
