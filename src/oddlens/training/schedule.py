"""Schedules: which epochs are trained, the progress of training from 0 to 1, and the learning rate that follows."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from oddlens.config.base import TrainingSettings
from oddlens.training.history import HistoryRow, count_epochs
from oddlens.training.time_limit import TimeLimit

WARM_UP_SHARE = 0.2  # of a one-cycle training, in which the learning rate rises
MAX_TIMED_STEPS = 50  # latest steps, at most, whose mean time is that of the next ones
CLOSING_STEPS = 4  # in which a training whose time is over lowers its learning rate
TOLERANCE = 0.1  # share of the steps left by which the time may be too short before an epoch is cut short


class Span(NamedTuple):
    """The steps of an epoch, and the progress of the whole training before the first and after the last of them."""

    start: float
    end: float
    steps: int

    def progress(self, step: float) -> float:
        """Progress of the whole training after so many steps of this epoch."""
        return self.start + (self.end - self.start) * step / self.steps

    def steps_left(self, step: int) -> float:
        """Steps from this one to the end of the whole training, at the pace of this epoch."""
        return self.steps * (1 - self.start) / (self.end - self.start) - step


class Pacer:
    """Plans a training epoch by epoch. With a time limit the plan changes, so that its schedule ends in time.

    Each new epoch gets as many steps, and as much of the progress, as the time allows. An epoch is cut short when the
    machine becomes so slow in its middle that there would be no time left to end the schedule.
    """

    def __init__(
        self, settings: TrainingSettings, steps: int, limit: TimeLimit | None, history: Sequence[HistoryRow]
    ) -> None:
        self.settings = settings
        self.limit = None if settings.pace else limit  # a pace is repeated however long it takes
        self.steps = steps  # of a whole epoch
        self.step_seconds: deque[float] = deque(maxlen=min(steps, MAX_TIMED_STEPS))
        self.step_started: float | None = None  # None before the first step of this process, which is slow
        for row in history[-1:]:
            self.step_seconds.append(row["seconds"] / max(1, self.count_steps(history[-1:])))

    def count_steps(self, history: Sequence[HistoryRow]) -> int:
        """Number of steps of some epochs."""
        return round(count_epochs(history) * self.steps)

    def next_epoch(self, history: Sequence[HistoryRow]) -> Span | None:
        """The next epoch; None where there is none."""
        settings, done = self.settings, len(history)
        start = history[-1]["progress"] if history else 0.0
        if settings.pace:
            if done >= len(settings.pace):
                return None
            share = settings.pace_shares[done] if settings.pace_shares else 1.0
            return Span(start, settings.pace[done], max(1, round(share * self.steps)))
        if self.limit is None:
            epochs = settings.epochs
            return Span(done / epochs, (done + 1) / epochs, self.steps) if done < epochs else None
        left: float = settings.epochs * self.steps - self.count_steps(history)
        if start >= 1 or left < 1:
            return None
        left = min(left, self.affordable_steps(start))
        steps = int(min(self.steps, left))
        return Span(start, 1.0 if steps == left else start + (1 - start) * steps / left, steps)

    def must_stop(self, span: Span, step: int) -> bool:
        """Whether the time is too short to go on with an epoch after this step; times the step."""
        if self.limit is None:
            return False
        if self.step_started is not None:
            self.step_seconds.append(time.perf_counter() - self.step_started)
        affordable = self.affordable_steps(span.progress(step))
        self.step_started = time.perf_counter()
        in_epoch = span.steps - step
        enough = min((1 - TOLERANCE) * span.steps_left(step) - 1, in_epoch + CLOSING_STEPS)
        return in_epoch > 0 and affordable < enough

    def affordable_steps(self, progress: float) -> float:
        """Number of steps that the time is enough for, at least some to end the schedule; not finite before any."""
        if self.limit is None or not sum(self.step_seconds):
            return math.inf
        seconds = sum(self.step_seconds) / len(self.step_seconds)
        return max(1, math.ceil(CLOSING_STEPS * (1 - progress)), int(self.limit.left() / seconds))


def lr_multiplier(schedule: str, progress: float) -> float:
    """Factor of the learning rate at a progress from 0 to 1."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - progress
    return progress / WARM_UP_SHARE if progress < WARM_UP_SHARE else (1 - progress) / (1 - WARM_UP_SHARE)
