"""Cached cells of the benchmark tables: the JSON results of command lines that were run once.

A cell is identified by its exact command lines. Cells computed by other code are still used, and marked in the tables.
A cell is written atomically after its last command, so an interrupted run loses only the cell in progress.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import oddlens
from oddlens.config.base import Settings
from oddlens.errors import OddlensError
from oddlens.io.atomic import write_bytes

ROOT = Path(__file__).parent.parent
PACKAGES = ("oddlens", "torch", "numpy", "scikit-learn")
PROGRAMS = {"oddlens": (sys.executable, "-m", "oddlens"), "python": (sys.executable,)}
BUILT_IN = ("digits", "tiles")  # data sets that need no files


@dataclass(frozen=True)
class Job:
    """The recipe of a cell: a name for its file, and command lines that print JSON.

    In the command lines, `$DATA` is the folder of data sets and `$OUT` an empty folder that is deleted afterwards.
    """

    name: str
    commands: tuple[str, ...]

    @property
    def key(self) -> str:
        """File name without suffix: name and digest of the command lines (`cifar10-airplane-auto-s0-1f0e5c27`)."""
        digest = hashlib.blake2b(json.dumps(self.commands).encode(), digest_size=4).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9.-]', '_', self.name)}-{digest}"


class Cell(Settings):
    """The results of a job, with the code, machine and versions that produced them."""

    commands: tuple[str, ...]
    results: tuple[dict[str, Any], ...]  # one per command
    wall: tuple[float, ...]  # seconds per process, start-up included
    commit: str
    code: str  # `code_digest` of the package
    machine: str
    load: float  # load average over the minute before; 0 on an idle machine
    versions: dict[str, str]
    made: str  # date and time, UTC

    @property
    def result(self) -> dict[str, Any]:
        """The JSON of the last command."""
        return self.results[-1]

    @property
    def fit_seconds(self) -> float:
        """`seconds.fit` of the first command."""
        return float(self.results[0]["seconds"]["fit"])

    @property
    def mark(self) -> str:
        """The dagger printed after the numbers of a cell that other code computed; otherwise empty."""
        return "" if self.code == code_digest() else " †"


@dataclass
class Cells:
    """The cells in a folder; `need` computes those that are missing."""

    folder: Path
    data: Path | None = None  # the folder of data sets
    fresh: bool = False  # recompute every cell
    printing: bool = False  # print cached cells only; compute none
    used: dict[str, Cell] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def need(self, job: Job) -> Cell | None:
        """Return the cell, and compute it first where it is missing.

        Returns None where nothing may be computed, or where a command failed; the job's name is then added to `failed`
        and the reason printed to stderr.
        """
        is_stale = self.fresh and job.key not in self.used and not self.printing
        cell = None if is_stale else self.cached(job)
        if cell is None and not self.printing:
            try:
                cell = self.make(job)
            except OddlensError as error:
                say(f"error: {error}")
                self.failed.append(job.name)
        if cell is not None:
            self.used[job.key] = cell
        return cell

    def cached(self, job: Job) -> Cell | None:
        """Return the cell from its file; None where it is missing or damaged (with a warning on stderr)."""
        path = self.path(job)
        if not path.exists():
            return None
        try:
            cell = Cell.model_validate_json(path.read_bytes())
        except ValidationError as error:
            say(f"{path}: is damaged ({error.errors()[0]['msg']}) and ignored; run without --print to recompute it")
            return None
        return cell if cell.commands == job.commands else None

    def make(self, job: Job) -> Cell:
        """Run the job's commands and write the cell.

        Raises:
            OddlensError: a command failed or printed no JSON.
        """
        working, results, wall = self.folder / "in-progress", [], []
        working.mkdir(parents=True, exist_ok=True)
        for leftover in working.glob(f"{job.key}-*"):  # of an interrupted run
            shutil.rmtree(leftover, ignore_errors=True)
        work, load = Path(tempfile.mkdtemp(prefix=f"{job.key}-", dir=working)), round(os.getloadavg()[0], 2)
        try:
            for command in job.commands:
                say(f"{job.name}: {command}")
                started = time.perf_counter()
                results.append(self.run(command, work))
                wall.append(round(time.perf_counter() - started, 3))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        cell = Cell(
            commands=job.commands, results=tuple(results), wall=tuple(wall), commit=commit(), code=code_digest(),
            machine=machine(), load=load, versions=versions(), made=now,
        )  # fmt: skip
        write_bytes(self.path(job), cell.model_dump_json(indent=1).encode())
        return cell

    def run(self, command: str, work: Path) -> dict[str, Any]:
        """Run one command line and parse the JSON on its stdout."""
        if "$DATA" in command and self.data is None:
            raise OddlensError(f"`{command}` needs the data sets; pass their folder with --data or set ODDLENS_DATA")
        program, *arguments = shlex.split(command)
        arguments = [word.replace("$DATA", str(self.data)).replace("$OUT", str(work)) for word in arguments]
        done = subprocess.run([*PROGRAMS[program], *arguments], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr, end="", flush=True)
            raise OddlensError(f"`{command}` failed with exit code {done.returncode}; see its output above")
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise OddlensError(f"`{command}` printed no JSON but {done.stdout[:80]!r}; run it by itself") from error
        return result

    def path(self, job: Job) -> Path:
        """Path of a job's cell."""
        return self.folder / f"{job.key}.json"


def fit_and_eval(
    source: str, normal: str | None, detector: str, seed: int, *,
    budget: str | None = None, threads: int | None = None, extra: Sequence[str] = (),
) -> Job:  # fmt: skip
    """Return the job that fits a detector on a data set and evaluates it on the test images.

    `source` is the name of a data set or a folder below `$DATA`; `extra` are further options of `oddlens fit`.
    """
    data = [source]
    data += ["--normal", normal] if normal else []
    data += [] if source in BUILT_IN or source.startswith("$") else ["--data", "$DATA"]
    common = ["--seed", str(seed), *(["--threads", str(threads)] if threads else []), "--json"]
    settings = ["--detector", detector, *(["--budget", budget] if budget else []), *extra]
    name = "-".join([Path(source).name, *([normal] if normal else []), detector, f"s{seed}"])
    fit = ["oddlens", "fit", *data, *settings, *common, "-o", "$OUT/detector.safetensors"]
    evaluation = ["oddlens", "eval", "$OUT/detector.safetensors", *data, *common]
    return Job(name, (format_command(fit), format_command(evaluation)))


def format_command(arguments: Sequence[str]) -> str:
    """Quote a command line for the shell; `$DATA` and `$OUT` stay variables."""
    return " ".join(word if word.startswith("$") else shlex.quote(word) for word in arguments)


def cached_json(path: Path, compute: Callable[[], Any]) -> Any:
    """The JSON in a file; where it is missing, it is computed and written first."""
    if not path.exists():
        say(f"{path.stem}: computing")
        write_bytes(path, json.dumps(compute()).encode())
    return json.loads(path.read_text(encoding="utf-8"))


def say(text: str) -> None:
    """Print progress or a warning to stderr; stdout is for the tables."""
    print(text, file=sys.stderr, flush=True)


@functools.cache
def code_digest() -> str:
    """Digest of the package's code, in which comments, docstrings and layout do not count."""
    trees = []
    for path in sorted(Path(oddlens.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(body := getattr(node, "body", None), list):
                body[:] = [part for part in body if not is_text(part)]
        trees.append(ast.dump(tree))
    return hashlib.blake2b("\0".join(trees).encode(), digest_size=8).hexdigest()


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a constant, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@functools.cache
def commit() -> str:
    """The current commit, with a + where src/ has uncommitted changes; "none" outside a git repository."""
    head = output_of("git", "rev-parse", "--short", "HEAD")
    return head + "+" * bool(output_of("git", "status", "--porcelain", "src")) if head else "none"


@functools.cache
def machine() -> str:
    """Processor, number of usable cores, operating system, and the first GPU if any."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0]
    processor = names[0].strip() if names else platform.processor() or platform.machine()
    return ", ".join([processor, f"{cores} cores", platform.system(), *([gpu] if gpu else [])])


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and the packages that the results depend on, installed accelerators among them."""
    entries = importlib.metadata.entry_points(group="oddlens.accelerators")
    plugins = {entry.dist.name: entry.dist.version for entry in entries if entry.dist}
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | packages | plugins


def output_of(*command: str) -> str:
    """Return the stdout of a program; empty where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()
