"""Cells of the benchmark tables: each is made by real command lines, once, and kept in a file.

A cell is known by its command lines as written: one that other command lines made is never taken for it. One that older
code made is taken, and marked in the tables. A cell is written in one step when its last command is done, so that a
killed run loses the cell in progress and nothing else.
"""

from __future__ import annotations

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
from collections.abc import Sequence
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
DETECTOR = "detector.safetensors"  # what a fit leaves in $OUT
BUILT_IN = ("digits", "tiles")  # sets that need no files


@dataclass(frozen=True)
class Job:
    """A cell to make: a name for its file, and command lines that print JSON.

    In them `$DATA` is the folder of data sets and `$OUT` an empty one that is gone afterwards.
    """

    name: str
    commands: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name and a digest of the command lines: `cifar10-airplane-auto-s0-1f0e5c27`."""
        digest = hashlib.blake2b(json.dumps(self.commands).encode(), digest_size=4).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9.-]', '_', self.name)}-{digest}"


class Cell(Settings):
    """What a job gave, and what it was made by and on."""

    commands: tuple[str, ...]
    results: tuple[dict[str, Any], ...]  # one a command
    wall: tuple[float, ...]  # seconds of each whole process
    commit: str
    code: str  # digest of the package's own files
    machine: str
    load: float  # processes that wanted to run in the minute before: 0 on a quiet machine
    versions: dict[str, str]
    made: str

    @property
    def result(self) -> dict[str, Any]:
        """What the last command said."""
        return self.results[-1]

    @property
    def fit_seconds(self) -> float:
        """`seconds.fit`, as the first command gave it."""
        return float(self.results[0]["seconds"]["fit"])

    @property
    def detector(self) -> str | None:
        """The family that the first command fitted; None for the baseline."""
        found = re.search(r" --detector (\S+)", self.commands[0])
        return found.group(1) if found else None

    @property
    def mark(self) -> str:
        """What stands behind the numbers of a cell that other code than today's made."""
        return "" if self.code == code_digest() else " †"


@dataclass
class Cells:
    """The cells in a folder; `need` makes those that are missing."""

    folder: Path
    data: Path | None = None  # the folder of data sets
    fresh: bool = False  # make every cell anew
    printing: bool = False  # make none
    keep: bool = False  # keep detector files
    used: dict[str, Cell] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def need(self, job: Job, *, detector: bool = False) -> Cell | None:
        """The cell, made now where it is missing (or its detector file, where that is needed).

        None where nothing may be made, or making failed: `failed` then has its name, stderr the reason.
        """
        anew = self.fresh and job.key not in self.used and not self.printing
        cell = None if anew else self.cached(job)
        missing = cell is None or (detector and not self.detector(job).exists())
        if missing and not self.printing:
            try:
                cell = self.make(job, keep=detector or self.keep)
            except OddlensError as error:
                say(f"error: {error}")
                self.failed.append(job.name)
                return None
        if cell is not None:
            self.used[job.key] = cell
        return cell

    def cached(self, job: Job) -> Cell | None:
        """The cell as it lies in the folder; a damaged one is named and counts as missing."""
        path = self.path(job)
        if not path.exists():
            return None
        try:
            cell = Cell.model_validate_json(path.read_bytes())
        except ValidationError as error:
            say(f"{path}: is damaged ({error.errors()[0]['msg']}) and does not count; without --print it is made anew")
            return None
        if cell.commands == job.commands:
            self.used[job.key] = cell
            return cell
        return None

    def make(self, job: Job, *, keep: bool = False) -> Cell:
        """Run the job's commands, then write the cell; with `keep`, the detector file stays beside it.

        Raises:
            OddlensError: a command failed, or gave no JSON.
        """
        working, results, wall = self.folder / "in-progress", [], []
        working.mkdir(parents=True, exist_ok=True)
        for left in working.glob(f"{job.key}-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        work, load = Path(tempfile.mkdtemp(prefix=f"{job.key}-", dir=working)), round(os.getloadavg()[0], 2)
        try:
            for command in job.commands:
                say(f"{job.name}: {command}")
                started = time.perf_counter()
                results.append(self.run(command, work))
                wall.append(round(time.perf_counter() - started, 3))
            if keep and (work / DETECTOR).exists():
                self.detector(job).parent.mkdir(exist_ok=True)
                (work / DETECTOR).replace(self.detector(job))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        cell = Cell(
            commands=job.commands, results=tuple(results), wall=tuple(wall), commit=commit(), code=code_digest(),
            machine=machine(), load=load, versions=versions(), made=made,
        )  # fmt: skip
        write_bytes(self.path(job), cell.model_dump_json(indent=1).encode())
        return cell

    def run(self, command: str, work: Path) -> dict[str, Any]:
        """Run one command line and read the JSON on its stdout."""
        if "$DATA" in command and self.data is None:
            raise OddlensError(f"`{command}` needs the data sets; name their folder with --data, or set ODDLENS_DATA")
        program, *words = shlex.split(command)
        words = [word.replace("$DATA", str(self.data)).replace("$OUT", str(work)) for word in words]
        done = subprocess.run([*PROGRAMS[program], *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr, end="", flush=True)
            raise OddlensError(f"`{command}` ended with exit code {done.returncode}; its own words are above this line")
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise OddlensError(f"`{command}` gave no JSON but {done.stdout[:80]!r}; run it by itself") from error
        return result

    def path(self, job: Job) -> Path:
        """Where a job's cell lies."""
        return self.folder / f"{job.key}.json"

    def detector(self, job: Job) -> Path:
        """Where a job's detector file lies, if it was kept."""
        return self.folder / "detectors" / f"{job.key}.safetensors"


def fit_and_eval(
    source: str, normal: str | None, detector: str, seed: int, *,
    budget: str | None = None, threads: int | None = None, extra: Sequence[str] = (),
) -> Job:  # fmt: skip
    """The job that fits a detector on a set's normal images and evaluates it on the set's test images.

    `source` is a set's name, or a folder below `$DATA`; `extra` are further options of `oddlens fit`.
    """
    data = [source]
    data += ["--normal", normal] if normal else []
    data += [] if source in BUILT_IN or source.startswith("$") else ["--data", "$DATA"]
    every = ["--seed", str(seed), *(["--threads", str(threads)] if threads else []), "--json"]
    chosen = ["--detector", detector, *(["--budget", budget] if budget else []), *extra]
    name = "-".join([Path(source).name, *([normal] if normal else []), detector, f"s{seed}"])
    fit = ["oddlens", "fit", *data, *chosen, *every, "-o", f"$OUT/{DETECTOR}"]
    return Job(name, (written(fit), written(["oddlens", "eval", f"$OUT/{DETECTOR}", *data, *every])))


def thumbnails(source: str, normal: str | None = None, recipe: str | None = None) -> Job:
    """The job that scores the trivial baseline on the same images."""
    words = ["python", "benchmarks/thumbnails.py", source, *(["--normal", normal] if normal else [])]
    words += ["--recipe", recipe] if recipe else []
    words += [] if source in BUILT_IN or source.startswith("$") else ["--data", "$DATA"]
    return Job("-".join([Path(source).name, *([normal] if normal else []), "thumbnails"]), (written(words),))


def written(words: Sequence[str]) -> str:
    """A command line as one types it; `$DATA` and `$OUT` stay variables of the shell."""
    return " ".join(word if word.startswith("$") else shlex.quote(word) for word in words)


def say(text: str) -> None:
    """Progress and warnings go to stderr: stdout is for the tables."""
    print(text, file=sys.stderr, flush=True)


@functools.cache
def code_digest() -> str:
    """A digest of everything that the package consists of."""
    root, digest = Path(oddlens.__file__).parent, hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".toml")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def commit() -> str:
    """The commit that is checked out, with a + where the package differs from it; "none" outside of git."""
    head = said("git", "rev-parse", "--short", "HEAD")
    return head + "+" * bool(said("git", "status", "--porcelain", "src")) if head else "none"


@functools.cache
def machine() -> str:
    """Processor, cores that may be used, system, and the first GPU if there is one."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0]
    processor = names[0].strip() if names else platform.processor() or platform.machine()
    return ", ".join([processor, f"{cores} cores", platform.system(), *([gpu] if gpu else [])])


@functools.cache
def versions() -> dict[str, str]:
    """What ran."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def said(*command: str) -> str:
    """What a program printed; nothing where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()
