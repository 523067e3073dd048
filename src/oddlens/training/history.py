"""Training history: one row per epoch, and progress reports during training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oddlens.io.atomic import write_bytes

HistoryRow = dict[str, float]


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


def write_history(folder: Path, history: Sequence[HistoryRow]) -> None:
    """Write the history as JSON lines, one per epoch."""
    write_bytes(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history).encode())
