"""Folders of photographs as an engineer has them, and jobs on them that take seconds."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from oddlens.pages.learning.folders import Photographs
from oddlens.pages.learning.job import Job, State
from oddlens.pages.learning.jobs import Jobs
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.projects import FitSettings, Project, Projects
from oddlens.pages.learning.worker import WORK
from oddlens.pages.learning.workspace import Workspace

QUICK = FitSettings(detector="autoencoder", epochs=1)
LONG = FitSettings(detector="autoencoder", epochs=150)  # so that a test can interrupt it
SECONDS = 600.0  # that a test waits at most; it fails then


def write_photos(folder: Path, count: int, seed: int = 0, spot: bool = False) -> Path:
    """Write so many noisy stripes of 16 x 16 pixels, with a bright spot where they are defects."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = 90 + 40 * np.sin(np.arange(16) * rng.uniform(0.3, 0.9) + rng.uniform(0, 6))[None, :]
        image = image + rng.normal(0, 12, (16, 16))
        if spot:
            image[4:9, 5:11] = 250
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03}.png")
    return folder


def write_parts(folder: Path, n_train: int = 60, n_test: int = 6) -> Path:
    """Write photographs of parts in the layout with train/good, test/good and test/spot."""
    write_photos(folder / "train/good", n_train)
    write_photos(folder / "test/good", n_test, 1)
    write_photos(folder / "test/spot", n_test, 2, spot=True)
    return folder


class Desk:
    """An engineer's desk: a root with the photographs `parts`, a workspace, and a project on them."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "photos"
        write_parts(self.root / "parts")
        self.workspace = Workspace.open(folder / "store.learning", self.root)
        self.photographs = Photographs(self.root, self.workspace)
        self.projects = Projects(self.workspace)
        self.jobs = Jobs(self.workspace, self.photographs)
        self.parts = next(folder.id for folder in self.photographs.folders() if folder.name == "parts")

    def project(self, settings: FitSettings = QUICK, folder: str = "", **changes: object) -> Project:
        """A project on the parts, or on another folder."""
        project = self.projects.create("Caps", folder or self.parts)
        return self.projects.change(project.id, 1, settings=settings, **changes)  # type: ignore[arg-type]

    def wait(self, job: Job, state: State, until: Callable[[], bool] = lambda: True, *, hurried: bool = True) -> None:
        """Tick until a job is in a state and something is so; fails after `SECONDS`, and where the job fails."""
        end = time.monotonic() + SECONDS
        while job.status.state != state or not until():
            assert time.monotonic() < end, (job.status, [path.name for path in job.folder.iterdir()])
            assert state == "failed" or job.status.state != "failed", job.status
            self.jobs.tick()
            if hurried:
                for process in self.jobs._processes:
                    hurry(process.pid)
            time.sleep(0.02)

    def close(self) -> None:
        """Stop all that runs, and wait for it."""
        for row in self.jobs.all():
            if row.status.state in ("running", "pausing", "waiting", "interrupted"):
                self.jobs.stop(row.id)
        for process in self.jobs._processes:
            process.wait()


def hurry(pid: int) -> None:
    """Undo the low priority of a worker, which other tests would starve; nothing happens where that is not allowed."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 0)
        Path(f"/proc/{pid}/autogroup").write_text("0", encoding="ascii")


@contextlib.contextmanager
def hurried(service: int) -> Iterator[None]:
    """Hurry the workers of a service, by the number of its process, again and again."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.1):
            for file in Path(f"/proc/{service}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    for child in file.read_text(encoding="ascii").split():
                        hurry(int(child))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def do_here(job: Job) -> Job:
    """Do a job in this process, as its worker would; returns it when it is done."""
    work, phases = WORK[job.request.kind]
    work(job, job.request, Progress(job.folder, phases))
    job.end("done")
    return job


def has_checkpoint(job: Job) -> bool:
    """Whether a fit has finished an epoch."""
    return any(job.folder.rglob("epoch-*.safetensors"))


def state_of(job: Job) -> State:
    """The state of a job now."""
    return job.status.state
