"""Schedules: the progress of training, from 0 to 1, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from oddlens.config.base import TrainingSettings
from oddlens.training.history import HistoryRow

WARM_UP_SHARE = 0.2  # of a one-cycle training, in which the learning rate rises


def current_progress(history: Sequence[HistoryRow], settings: TrainingSettings, deadline: float) -> float:
    """Progress of the whole training so far; without a pace or a deadline, relative to the epochs of `settings`."""
    if settings.pace or deadline < math.inf:
        return history[-1]["progress"] if history else 0.0
    return len(history) / settings.epochs


def next_progress(history: Sequence[HistoryRow], settings: TrainingSettings, deadline: float) -> float | None:
    """Progress of the whole training after the next epoch; None where there is no next epoch."""
    done = len(history)
    if settings.pace:
        return settings.pace[done] if done < len(settings.pace) else None
    if done >= settings.epochs:
        return None
    if deadline == math.inf:
        return (done + 1) / settings.epochs
    if not history:
        return 1 / settings.epochs
    before, recent = history[-1]["progress"], history[-3:]
    affordable = (deadline - time.perf_counter()) / (sum(row["seconds"] for row in recent) / len(recent))
    left = min(settings.epochs - done, int(affordable))
    return None if before >= 1 else 1.0 if left <= 1 else before + (1 - before) / left


def lr_multiplier(schedule: str, progress: float) -> float:
    """Factor of the learning rate at a progress from 0 to 1."""
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - progress
    return progress / WARM_UP_SHARE if progress < WARM_UP_SHARE else (1 - progress) / (1 - WARM_UP_SHARE)
