"""Jobs: they are added, started one at a time as processes of their own, paused, continued and stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from oddlens.errors import ArtifactError, OddlensError, StateError
from oddlens.io.atomic import translate_os_errors, write_bytes
from oddlens.io.own_folder import is_locked, lock, lock_descriptor
from oddlens.pages.learning.folders import Photographs
from oddlens.pages.learning.job import JOB, LOG, OUTCOME, REGION, WISH, WORKER, Job, Kind, Request, Status, jobs_in
from oddlens.pages.learning.projects import Project, mask_file, timestamp
from oddlens.pages.learning.workspace import Workspace, read_json, write_json

STOP_SECONDS = 10.0  # after which a process that was told to stop is killed


@dataclass(frozen=True)
class Listed:
    """A job in a list; without a request where its file cannot be read, as the error of its status says."""

    id: str
    request: Request | None
    status: Status


class Jobs:
    """The jobs in a workspace, of which one at a time runs.

    A service calls `tick` about once a second. Any number of threads and processes may share a workspace.
    """

    def __init__(self, workspace: Workspace, photographs: Photographs) -> None:
        self.workspace, self.photographs = workspace, photographs
        self._processes: list[subprocess.Popen[bytes]] = []  # started here, until they have ended

    def add(self, kind: Kind, project: Project, person: str) -> Job:
        """Add a job for a project as it is now; it waits until `tick` starts it.

        Raises:
            DataNotFoundError: the folder of photographs is no longer there.
            DiskFullError, OddlensError: it cannot be written.
        """
        path, folder_name = self.photographs.open(project.folder), self.photographs.name(project.folder)
        folder = self.workspace.jobs / f"{time.time_ns():016x}"
        with translate_os_errors(folder):
            folder.mkdir()
        if project.region:
            write_bytes(folder / REGION, mask_file(project.region))
        request = Request(
            id=folder.name,
            kind=kind,
            project=project.id,
            project_name=project.name,
            revision=project.revision,
            person=person,
            created=timestamp(),
            folder=project.folder,
            folder_name=folder_name,
            path=str(path),
            excluded=project.excluded,
            settings=project.settings,
        )
        write_json(folder / JOB, request.model_dump(mode="json"))  # last, so that the job is complete
        return Job(folder)

    def get(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            DataNotFoundError: there is no such job.
        """
        return Job(self.workspace.job(job_id))

    def all(self, project_id: str | None = None) -> list[Listed]:
        """All jobs, or those of a project, the newest first; those that cannot be read are failed."""
        listed = [list_job(job) for job in jobs_in(self.workspace.jobs)]
        return [row for row in listed[::-1] if project_id in (None, row.request and row.request.project)]

    def pause(self, job_id: str) -> None:
        """Pause a job that waits or runs; what it has trained is kept in checkpoints.

        Raises:
            DataNotFoundError: there is no such job.
            StateError: it has ended.
        """
        job = self.get(job_id)
        require_state(job, "paused", "waiting", "running", "pausing", "paused", "interrupted")
        job.wish = "pause"
        send(job, signal.SIGTERM)

    def stop(self, job_id: str) -> None:
        """Stop a job, and remove what it has written; it cannot be continued.

        Raises:
            DataNotFoundError: there is no such job.
            StateError: it has ended.
        """
        job = self.get(job_id)
        open_states = ("waiting", "running", "pausing", "paused", "interrupted", "stopping", "failed")
        require_state(job, "stopped", *open_states)
        job.wish = "stop"
        if not send(job, signal.SIGTERM):
            self._end_stopped(job)

    def continue_(self, job_id: str) -> None:
        """Continue a job that was paused or has failed, as soon as no other job runs.

        Raises:
            DataNotFoundError: there is no such job.
            StateError: it is neither.
        """
        job = self.get(job_id)
        require_state(job, "continued", "paused", "failed", "interrupted")
        with locked(job) as descriptor:
            if descriptor is None:
                raise StateError(f"the job {job.id} is just being started; look again")
            for name in (OUTCOME, WORKER):
                (job.folder / name).unlink(missing_ok=True)
            job.wish = "run"

    def tick(self) -> None:
        """Start the next job if none runs, continue one that was interrupted, and end what was told to stop.

        Raises:
            DiskFullError, OddlensError: something cannot be written; the next call tries again.
        """
        self._processes = [process for process in self._processes if process.poll() is None]
        with lock(self.workspace.jobs) as is_free:
            if not is_free:  # another process or thread is at it
                return
            jobs = [job for job in jobs_in(self.workspace.jobs) if not (job.folder / OUTCOME).exists()]
            listed = [(job, list_job(job).status.state) for job in jobs]
            for job, state in listed:
                if state == "stopping" and wish_seconds(job) > STOP_SECONDS:
                    send(job, signal.SIGKILL)
                if state == "stopped":
                    self._end_stopped(job)
            if any(is_locked(job.folder) for job, _ in listed):
                return
            for job, state in listed:
                if state in ("waiting", "interrupted") and self._start(job):
                    return

    def _end_stopped(self, job: Job) -> None:
        with locked(job) as descriptor:
            if descriptor is not None:
                job.end("stopped")

    def _start(self, job: Job) -> bool:
        """Start the worker of a job, which inherits the lock on its folder and has it until it ends."""
        with locked(job) as descriptor:
            if descriptor is None or job.status_if(is_running=False).state not in ("waiting", "interrupted"):
                return False
            starts = read_json(job.folder / WORKER).get("starts", 0)
            write_json(job.folder / WORKER, {"pid": None, "starts": starts + 1})
            with translate_os_errors(job.folder / LOG), (job.folder / LOG).open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 - this program
                    [sys.executable, "-P", "-m", "oddlens.pages.learning.worker", str(job.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[descriptor],
                )
            self._processes.append(process)
            return True


def list_job(job: Job) -> Listed:
    """A job in a list."""
    try:
        return Listed(job.id, job.request, job.status)
    except OddlensError as error:
        return Listed(job.id, None, Status("failed", str(error)))


def require_state(job: Job, what: str, *states: str) -> None:
    """Refuse what cannot be done with a job in its present state.

    Raises:
        StateError: says which.
        ArtifactError: its files cannot be read.
    """
    state = job.status.state
    if state not in states:
        raise StateError(f"the job {job.id} cannot be {what}: it is {state}")


@contextlib.contextmanager
def locked(job: Job) -> Iterator[int | None]:
    """The descriptor of the folder of a job with its lock; None where the job runs."""
    descriptor = os.open(job.folder, os.O_RDONLY)
    try:
        yield descriptor if lock_descriptor(descriptor) else None
    finally:
        os.close(descriptor)


def send(job: Job, number: int) -> bool:
    """Send a signal to the worker of a job; False where none runs.

    A worker whose number is not yet there reads the wish before it begins. The number is that of the worker because
    the worker has the lock.
    """
    try:
        pid = read_json(job.folder / WORKER).get("pid")
    except ArtifactError:
        pid = None
    with signaller(pid) as send_signal:
        is_running = is_locked(job.folder)
        if is_running:
            with contextlib.suppress(ProcessLookupError):
                send_signal(number)
        return is_running


@contextlib.contextmanager
def signaller(pid: int | None) -> Iterator[Callable[[int], None]]:
    """What sends a signal to the process that has this number now, and to no later one where the system can do that."""
    if pid is None or sys.platform != "linux":
        yield (lambda number: None) if pid is None else functools.partial(os.kill, pid)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # there is no such process
        yield lambda number: None
        return
    try:
        yield functools.partial(signal.pidfd_send_signal, descriptor)
    finally:
        os.close(descriptor)


def wish_seconds(job: Job) -> float:
    """Seconds since people said what they want of a job."""
    time_of_wish = datetime.fromisoformat(read_json(job.folder / WISH)["time"])
    return (datetime.now(UTC) - time_of_wish).total_seconds()
