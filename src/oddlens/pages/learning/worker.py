"""The process of one job: `python -m oddlens.pages.learning.worker JOBFOLDER`, started by `Jobs.tick`.

It inherits the lock on the folder, and so has it for as long as it lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

from oddlens.errors import OddlensError
from oddlens.pages.learning import checking, fitting
from oddlens.pages.learning.folders import without_path
from oddlens.pages.learning.job import WORKER, Job, Kind, Request
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.workspace import read_json, write_json

NICE = 10  # so that inspections come first
AUTOGROUP = Path("/proc/self/autogroup")  # of Linux: the priority of a whole session, within which that of a process is
WORK: Mapping[Kind, tuple[Callable[[Job, Request, Progress], None], Mapping[str, float]]] = {
    "check": (checking.check_photographs, checking.PHASES),
    "fit": (fitting.fit_detector, fitting.PHASES),
}


def main(folder: Path) -> int:
    """Do the job in a folder; returns the exit code.

    SIGTERM ends it as people want it: paused or stopped. Where nobody wants that, as when the machine shuts down, the
    job is interrupted, and is continued later.
    """
    job = Job(folder)
    lower_priority()
    try:
        run(job)
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if job.wish == "stop":
            job.end("stopped")
        return 0
    except OddlensError as error:
        return fail(job, as_shown(error, job))
    except MemoryError:
        return fail(job, "there is too little memory for this work; use fewer images, a smaller size or tiles")
    except Exception as error:
        return fail(job, f"an error in oddlens: {type(error).__name__}: {error}; please report it with the job's log")
    return 0


def run(job: Job) -> None:
    """Do a job unless people want it to pause or stop, and write that it is done."""
    request = job.request
    work, phases = WORK[request.kind]
    progress = Progress(job.folder, phases)
    interruptible(progress)
    write_json(job.folder / WORKER, read_json(job.folder / WORKER) | {"pid": os.getpid()})
    if job.wish != "run":
        raise KeyboardInterrupt
    with progress.reporting():
        work(job, request, progress)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job.end("done")


def interruptible(progress: Progress) -> None:
    """Let SIGTERM interrupt the work, once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        progress.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def fail(job: Job, sentence: str) -> int:
    """Write that a job has failed and why, and the traceback to its log."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    traceback.print_exc()
    try:
        job.end("failed", sentence)
    except OddlensError as error:  # the log may still have room
        print(f"{sentence} ({error})", file=sys.stderr)
    return 1


def as_shown(error: OddlensError, job: Job) -> str:
    """What an error says, without the path of the photographs if the request can be read."""
    try:
        request = job.request
    except OddlensError:
        return str(error)
    return without_path(str(error), Path(request.path), request.folder_name)


def lower_priority() -> None:
    """Let other programs go first. Linux gives each session its share of the processor, so that it is lowered too."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError):
        AUTOGROUP.write_text(str(NICE), encoding="ascii")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
