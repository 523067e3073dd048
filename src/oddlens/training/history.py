"""Training history: one row per epoch, and progress reports during training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oddlens.io.atomic import write_bytes

HistoryRow = dict[str, float]  # epoch, loss, progress, seconds; "share" of the epoch's steps where it was cut short


@dataclass(frozen=True)
class TrainingStep:
    """A progress report: what a progress bar shows."""

    epoch: int  # 1-based
    epochs: int
    step: int  # 1-based, within the epoch
    steps: int
    loss: float  # mean so far in this epoch
    family: str = ""


Progress = Callable[[TrainingStep], None]
Log = Callable[[str], None]  # shows a note


@dataclass(frozen=True)
class TrainingRecord:
    """How much of its plan a member trained; in closed form, an epoch goes through all images."""

    title: str  # of the detector
    epochs: float
    planned_epochs: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether it trained all that was planned."""
        return self.epochs >= self.planned_epochs


def count_epochs(history: Sequence[HistoryRow]) -> float:
    """Number of epochs; those that were cut short count by the share of their steps."""
    return sum(row.get("share", 1.0) for row in history)


def write_history(folder: Path, history: Sequence[HistoryRow]) -> None:
    """Write the history as JSON lines, one per epoch."""
    write_bytes(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())
