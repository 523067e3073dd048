"""The worker of a job, in this process: how it ends, and what it says about errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from photo_folders import Desk

from oddlens.errors import DataError, DiskFullError
from oddlens.pages.learning import job as job_module
from oddlens.pages.learning import worker
from oddlens.pages.learning.job import Job, Request
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.workspace import read_json


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process of the tests keeps its priority and its signals."""
    monkeypatch.setattr(worker, "lower_priority", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def job(desk: Desk) -> Job:
    return desk.jobs.add("fit", desk.project(), "Ada")


def does(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
    """Let the work of a fit end at once, or with an error."""

    def work(job: Job, request: Request, progress: Progress) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(worker, "WORK", {"fit": (work, {"reading": 1.0})})


def test_work_that_ends_is_done_and_its_number_is_in_the_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch)
    assert worker.main(job.folder) == 0
    assert job.status.state == "done"
    assert read_json(job.folder / "worker.json")["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("there are <b>no</b> images"), "there are <b>no</b> images"),
        (DiskFullError("part: cannot be written (No space left on device); free some space"), "free some space"),
        (MemoryError(), "too little memory"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero; please report it"),
    ],
)
def test_an_error_is_a_sentence_and_a_traceback_in_the_log(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, sentence: str
) -> None:
    does(monkeypatch, error)
    assert worker.main(job.folder) == 1
    assert job.status.state == "failed"
    assert sentence in job.status.error
    assert "Traceback" in capfd.readouterr().err


def test_an_error_names_an_image_by_its_path_below_the_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, DataError(f"{job.request.path}/good/1.png: is damaged"))
    worker.main(job.folder)
    assert job.status.error == "good/1.png: is damaged"


def test_a_disk_without_room_for_the_outcome_is_said_in_the_log(
    job: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path, values: object) -> None:
        raise DiskFullError(f"{path}: cannot be written (No space left on device)")

    does(monkeypatch, DiskFullError("detector.safetensors: no space"))
    with monkeypatch.context() as full:
        full.setattr(job_module, "write_json", fail)
        assert worker.main(job.folder) == 1
    assert "No space left on device" in capfd.readouterr().err
    assert job.status.state == "interrupted"


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from oddlens.pages.learning import worker

def work(job, request, progress):
    job.wish = sys.argv[2]
    (job.folder / "detector.safetensors").touch()
    os.kill(os.getpid(), signal.SIGTERM)
    raise AssertionError("the signal came too late")

worker.WORK = {"fit": (work, {"reading": 1.0})}
sys.exit(worker.main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("wish", "state"), [("pause", "paused"), ("stop", "stopped"), ("run", "interrupted")])
def test_a_signal_ends_the_work_as_people_want_it(job: Job, wish: str, state: str) -> None:
    subprocess.run([sys.executable, "-c", INTERRUPTED, job.folder, wish], check=True)
    assert job.status.state == state
    assert (job.folder / "detector.safetensors").exists() == (state != "stopped")


def test_a_wish_from_before_the_work_is_obeyed_without_a_signal(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, AssertionError("it worked"))
    job.wish = "pause"
    assert worker.main(job.folder) == 0
    assert job.status.state == "paused"


def test_a_job_of_an_unknown_version_fails_in_words(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, AssertionError("it worked"))
    (job.folder / "job.json").write_text('{"version": 2}')
    assert worker.main(job.folder) == 1
    assert "another version" in str(read_json(job.folder / "outcome.json")["error"])
