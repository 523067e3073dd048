"""What a command says: progress and notes to stderr, results to stdout, JSON alone there when asked for.

Rich is imported for bars and tables alone: importing it takes longer than scoring an image.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    from oddlens.training.history import TrainingStep


class Console:
    """One command's mouth."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.bar: Progress | None = None
        self.started = time.perf_counter()
        self.epochs = 0

    @functools.cached_property
    def err(self) -> RichConsole:
        """Where bars are drawn."""
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A note for the person at the terminal."""
        if self.bar is None:
            print(text, file=sys.stderr)
        else:
            self.err.print(text, markup=False)

    def result(self, values: dict[str, Any], lines: Sequence[str] = ()) -> None:
        """The command's result: `values` as JSON when that was asked for, else `lines` to read."""
        self.close()
        if self.as_json:
            print(json.dumps(values, indent=2, allow_nan=False))
        else:
            for line in lines:
                print(line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table on stdout; nothing when JSON was asked for."""
        self.close()
        if self.as_json:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(shown(value) for value in row))
        width = None if sys.stdout.isatty() else 120
        RichConsole(width=width, highlight=False).print(table)

    def training(self, step: TrainingStep) -> None:
        """A progress bar with loss and time left on a terminal; a plain line an epoch otherwise."""
        if sys.stderr.isatty():
            total = step.epochs * step.steps
            done = (step.epoch - 1) * step.steps + step.step
            self._advance(f"training {step.family}: loss {step.loss:.4g}", done, total)
            if done == total:
                self.close()
        elif step.step == step.steps:
            self.epochs += 1  # a resumed run did the earlier ones before
            spent = time.perf_counter() - self.started
            left = spent / self.epochs * (step.epochs - step.epoch)
            told = f"{step.family} epoch {step.epoch}/{step.epochs}: loss {step.loss:.5g}".lstrip()
            self.say(f"{told}, {spent:.0f} s, about {left:.0f} s left")

    def counting(self, what: str, total: int, done: int) -> None:
        """A progress bar over images on a terminal; silent otherwise."""
        if sys.stderr.isatty():
            self._advance(what, done, total)

    def _advance(self, what: str, done: int, total: int) -> None:
        if self.bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.err, transient=True)
            self.bar.start()
            self.bar.add_task(what, total=total)
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, description=what)

    def close(self) -> None:
        """Take the progress bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def shown(value: object) -> str:
    """A value for a table cell."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
