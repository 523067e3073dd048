"""One job: what is requested, in a folder of its own, from which alone its state is read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from oddlens.config.base import Settings
from oddlens.config.parse import check_choice, parse
from oddlens.errors import StateError
from oddlens.io.atomic import translate_os_errors
from oddlens.io.own_folder import is_locked
from oddlens.pages.learning.projects import FitSettings, timestamp
from oddlens.pages.learning.workspace import read_json, write_json

Kind = Literal["check", "fit"]
Wish = Literal["run", "pause", "stop"]  # what people want of a job
State = Literal[
    "waiting", "running", "pausing", "paused", "stopping", "stopped", "failed", "done", "expired", "interrupted"
]
Ending = Literal["done", "failed", "stopped", "expired"]

JOB, WISH, WORKER, PROGRESS, OUTCOME = "job.json", "wish.json", "worker.json", "progress.json", "outcome.json"
LOG, REGION = "log.txt", "region.png"
FINDINGS, FINDINGS_PAGE = "findings.json", "findings.html"  # of a check
UNFINISHED = ".oddlens-*.partial"  # of io.atomic
MAX_STARTS = 2  # of a worker that ends without an outcome: it is started again once
MAX_TAIL = 2000  # characters of a log that an error quotes

_ALWAYS_THERE = (JOB, WISH, LOG, OUTCOME)


class Request(Settings):
    """What a job does, complete: projects and folders that change later do not change it."""

    id: str
    kind: Kind
    project: str  # id
    project_name: str
    revision: int  # of the project
    person: str  # who began it
    created: str
    folder: str  # id of the photographs
    folder_name: str
    path: str  # of the photographs
    excluded: tuple[str, ...]  # ids of images
    settings: FitSettings


@dataclass(frozen=True)
class Status:
    """The state of a job, as its folder says."""

    state: State
    error: str = ""  # why it failed, in a sentence
    progress: dict[str, Any] | None = None  # phase, share, seconds, seconds_left, message
    ended: str = ""  # when


class Job:
    """The folder of a job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def id(self) -> str:
        """The id of the job."""
        return self.folder.name

    @property
    def request(self) -> Request:
        """What the job does.

        Raises:
            ArtifactError: its file is damaged, or of another version.
        """
        return parse(Request, read_json(self.folder / JOB), str(self.folder / JOB))

    @property
    def wish(self) -> Wish:
        """What people want of it."""
        wish: Wish = read_json(self.folder / WISH).get("wish", "run")
        return wish

    @wish.setter
    def wish(self, wish: Wish) -> None:
        check_choice("wish", wish, get_args(Wish))
        write_json(self.folder / WISH, {"wish": wish, "time": timestamp()})

    @property
    def status(self) -> Status:
        """The state of the job.

        Raises:
            ArtifactError: one of its files is damaged, or of another version.
        """
        return self.status_if(is_locked(self.folder))  # asked before the outcome is read: a worker writes that first

    def status_if(self, is_running: bool) -> Status:
        """The state of the job where its worker runs, or does not.

        Raises:
            ArtifactError: as `status`.
        """
        self.request  # noqa: B018 - raises if another version wrote it
        outcome, worker, wish = read_json(self.folder / OUTCOME), read_json(self.folder / WORKER), self.wish
        progress = read_json(self.folder / PROGRESS) or None
        if outcome:
            return Status(outcome["state"], outcome["error"], progress, outcome["time"])
        if is_running:
            running: dict[Wish, State] = {"run": "running", "pause": "pausing", "stop": "stopping"}
            return Status(running[wish], progress=progress)
        if wish == "run" and worker.get("starts", 0) >= MAX_STARTS:
            return Status("failed", self.ended_twice(), progress)
        if wish == "run":
            return Status("interrupted" if worker else "waiting", progress=progress)
        return Status("paused" if wish == "pause" else "stopped", progress=progress)

    def ended_twice(self) -> str:
        """The sentence about a worker that ended without an outcome, with the end of its log."""
        text = (
            "the work ended twice without a result, perhaps because there was too little memory or disk: look at its "
            "log, then try again"
        )
        try:
            tail = (self.folder / LOG).read_text(encoding="utf-8", errors="backslashreplace")[-MAX_TAIL:].strip()
        except OSError:
            tail = ""
        return f"{text}; the log ends with: {tail}" if tail else f"{text}; the log is empty"

    def end(self, state: Ending, error: str = "") -> None:
        """Write the outcome, after removing unfinished files; of a stopped job, everything but its request and log.

        Raises:
            DiskFullError, OddlensError: it cannot be written.
        """
        with translate_os_errors(self.folder):
            for path in self.folder.glob(UNFINISHED):  # of a process that was killed
                path.unlink(missing_ok=True)
        if state == "stopped":
            self.clear()
        write_json(self.folder / OUTCOME, {"state": state, "error": error, "time": timestamp()})

    def expire(self) -> None:
        """Remove the files of a job that has ended, which says so from then on; a crash between leaves no half result.

        Raises:
            OddlensError: a file cannot be removed.
        """
        outcome = read_json(self.folder / OUTCOME)
        write_json(self.folder / OUTCOME, outcome | {"state": "expired", "error": ""})
        self.clear()

    def files(self) -> list[Path]:
        """The files that `clear` removes."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return [path for path in paths if path.parent != self.folder or path.name not in _ALWAYS_THERE]

    def clear(self) -> None:
        """Remove what the job wrote, but not its request and log."""
        with translate_os_errors(self.folder):
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in _ALWAYS_THERE:
                    path.unlink()

    def own(self, name: str) -> Path:
        """The path of a file that a job which is done has.

        Raises:
            StateError: the job is not done, or has no such file.
        """
        state, path = self.status.state, self.folder / name
        if state != "done" or not path.is_file():
            raise StateError(f"the job {self.id} has no {name}: it is {state}; choose a job that is done")
        return path


def jobs_in(folder: Path) -> Iterator[Job]:
    """The jobs in a folder of jobs, the oldest first; jobs that are just being made are not among them."""
    names = sorted(path.name for path in folder.iterdir() if (path / JOB).is_file())
    return (Job(folder / name) for name in names)
