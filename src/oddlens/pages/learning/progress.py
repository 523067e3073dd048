"""The progress of a job, which a thread of its worker writes to a file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from oddlens.errors import OddlensError
from oddlens.pages.learning.job import PROGRESS
from oddlens.pages.learning.workspace import write_json
from oddlens.training.history import TrainingStep

WRITE_SECONDS = 0.5  # between two writes
MIN_SHARE = 0.02  # of a phase, from which the time left can be estimated
MAX_SHARE = 0.99  # of a phase with a budget, which may end later


class Progress:
    """The progress of a job, written to its file by a thread; `phases` are their names and shares of the whole."""

    def __init__(self, folder: Path, phases: Mapping[str, float]) -> None:
        self.folder, self.phases = folder, phases
        self.started = self.phase_started = time.perf_counter()
        self.interrupted = False
        self.phase, self.message = next(iter(phases)), ""
        self.part, self.first_part = 0.0, -1.0  # of the phase that is done: now, and when it was first said
        self.budget: float | None = None  # seconds of the phase
        self._ended = threading.Event()

    def begin(self, phase: str, message: str = "", budget: float | None = None) -> None:
        """Begin a phase, which may have a budget of seconds."""
        self.check()
        self.phase, self.message, self.budget = phase, message, budget
        self.phase_started, self.part, self.first_part = time.perf_counter(), 0.0, -1.0

    def advance(self, done: float, total: float, message: str = "") -> None:
        """Say how much of the phase is done."""
        self.check()
        self.part, self.message = done / max(total, 1), message or self.message
        self.first_part = self.part if self.first_part < 0 else self.first_part

    def training(self, step: TrainingStep) -> None:
        """Say how far the training is."""
        done = (step.epoch - 1) * step.steps + step.step
        message = f"{step.family} epoch {step.epoch} of {step.epochs}, loss {step.loss:.4g}".lstrip()
        self.advance(done, step.epochs * step.steps, message)

    def check(self) -> None:
        """End the work if a signal to end was lost in code that ignores errors."""
        if self.interrupted:
            raise KeyboardInterrupt

    def values(self) -> dict[str, object]:
        """What the file says: phase, share, seconds of the worker, seconds left if that can be said, and a message."""
        now = time.perf_counter()
        used, part, left = now - self.phase_started, self.part, None
        if self.budget is not None:
            part = min(MAX_SHARE, max(0.0, used / self.budget))
            left = max(0.0, self.budget - used)
        elif part - self.first_part >= MIN_SHARE and self.first_part >= 0:
            left = used * (1 - part) / (part - self.first_part)
        names = list(self.phases)
        before = sum(self.phases[name] for name in names[: names.index(self.phase)])
        return {
            "phase": self.phase,
            "share": round(min(1.0, before + self.phases[self.phase] * min(1.0, part)), 4),
            "seconds": round(now - self.started, 1),
            "seconds_left": None if left is None else round(left, 1),
            "message": self.message,
        }

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Write the progress now and then while the block runs, and once at its end."""
        thread = threading.Thread(target=self._write_often, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _write_often(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(WRITE_SECONDS)
            with contextlib.suppress(OddlensError):  # a full disk: the work itself will say so
                write_json(self.folder / PROGRESS, self.values())
