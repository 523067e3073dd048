"""Run the command line as users run it: a process, its exit code, its two streams."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from oddlens.cli import app, main

QUICK = ("--detector", "autoencoder")  # fits in a second or two
SECONDS = 300.0  # that a command may take
STREAMS = ("stdin", "stdout", "stderr")
# A process that has imported what most commands need, and from which each command is forked: imports take seconds.
FORKS = multiprocessing.get_context("forkserver") if sys.platform == "linux" else None
if FORKS is not None:
    FORKS.set_forkserver_preload(
        [
            "oddlens.cli", "oddlens.detector.export", "oddlens.training.fit", "oddlens.reporting.evaluation_report",
            "oddlens.models.accelerators", "oddlens.store.store", "rich.progress", "rich.table", "sklearn.datasets",
            "sklearn.metrics", "onnxscript", "torch.onnx._internal.exporter._core", "torch._dynamo",
            "torch.export._trace", "listed_operators",
        ]
    )  # fmt: skip


def oddlens(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; with additional environment variables, which modules may read, from the start."""
    words = [*map(str, arguments)]
    if FORKS is not None and not environment:
        return run_forked(words)
    command = [sys.executable, "-m", "oddlens", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=SECONDS
    )


def run_forked(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a fork of the process that has imported everything."""
    assert FORKS is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stdin").touch()
        process = FORKS.Process(target=run_here, args=(arguments, dict(os.environ), str(Path.cwd()), folder))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, SECONDS)
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in STREAMS[1:])
        return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def run_here(arguments: list[str], environment: dict[str, str], folder: str, streams: str) -> None:
    """Run a command in this process, which is new, with its streams in files."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, name in enumerate(STREAMS):
        file = os.open(Path(streams, name), os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["oddlens", *arguments]
    main()


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
