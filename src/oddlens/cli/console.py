"""What a command prints: progress and notes on stderr, results on stdout; with --json, only JSON there.

Rich is imported only for progress bars and tables: importing it takes longer than scoring an image.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from oddlens.cli.streams import visible

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress

    from oddlens.training.history import TrainingStep

REDIRECTED_WIDTH = 120  # of tables, where stdout is not a terminal
MIN_WIDTH = 80  # of tables; a narrower terminal breaks their lines, but no number is cut
MAX_WORD = 40  # letters of a word that a table does not break


class Console:
    """Where one command prints; `threads` is the number of processor threads that it may use, None for all."""

    def __init__(self, as_json: bool, threads: int | None = None) -> None:
        self.as_json = as_json
        self.threads = threads
        self.bar: Progress | None = None
        self.in_bytes = False  # the bar counts bytes, not steps or images
        self.started = time.perf_counter()
        self.downloaded: float | None = None  # when the latest download ended; None without any
        self.epochs = 0
        self.said = set[str]()  # notes that the result need not repeat
        self.can_resume: Callable[[], bool] = lambda: False  # whether --resume would continue this run

    @functools.cached_property
    def err(self) -> RichConsole:
        """Rich's console on stderr, on which progress bars are drawn."""
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @property
    def draws_bars(self) -> bool:
        """Whether stderr is a terminal that can redraw a line."""
        return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def say(self, text: str) -> None:
        """Print a note on stderr."""
        if self.bar is None:
            print(visible(text), file=sys.stderr)
        else:
            self.err.print(visible(text))

    def say_once(self, text: str) -> None:
        """Print a note on stderr that the result need not repeat."""
        self.said.add(text)
        self.say(text)

    def result(self, values: dict[str, Any], lines: Sequence[str] = ()) -> None:
        """Print the result of the command: with --json `values`, otherwise `lines`."""
        self.close()
        if self.as_json:
            print(json.dumps(values, indent=2, allow_nan=False))
        else:
            for line in lines:
                print(visible(line))
        sys.stdout.flush()  # an error in writing is one of this command

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; nothing with --json."""
        self.close()
        if self.as_json:
            return
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table(title=visible(title), title_justify="left", title_style="bold")
        cells = [[visible(format_cell(value)) for value in row] for row in rows]
        for number, column in enumerate(columns):
            words = " ".join([column, *(row[number] for row in cells)]).split()
            longest = min(max(map(len, words)), MAX_WORD)
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold", min_width=longest)
        for row in cells:
            table.add_row(*row)
        console = RichConsole(highlight=False, markup=False, emoji=False)
        console.width = max(console.width, MIN_WIDTH) if sys.stdout.isatty() else REDIRECTED_WIDTH
        console.print(table, soft_wrap=True)

    def training(self, step: TrainingStep) -> None:
        """Show the progress of training: a bar on a terminal, otherwise a line for each epoch."""
        if self.draws_bars:
            total = step.epochs * step.steps
            done = (step.epoch - 1) * step.steps + step.step
            self._advance(f"training {step.family}: loss {step.loss:.4g}", done, total)
            if done == total:
                self.close()
        elif step.step == step.steps:
            self.epochs += 1  # of this command; a resumed run did earlier ones before
            elapsed = time.perf_counter() - self.started
            left = elapsed / self.epochs * (step.epochs - step.epoch)
            epoch = f"{step.family} epoch {step.epoch}/{step.epochs}: loss {step.loss:.5g}".lstrip()
            self.say(f"{epoch}, {elapsed:.0f} s, about {left:.0f} s left")

    def counting(self, what: str, total: int, done: int) -> None:
        """Show a progress bar over images on a terminal; nothing otherwise."""
        if self.draws_bars:
            self._advance(what, done, total)

    def downloading(self, name: str, done: int, total: int | None) -> None:
        """Show a progress bar over bytes on a terminal; nothing otherwise."""
        self.downloaded = time.perf_counter()
        if self.draws_bars:
            self._advance(name, done, total, in_bytes=True)
            if done == total:
                self.close()

    def _advance(self, what: str, done: int, total: int | None, in_bytes: bool = False) -> None:
        if self.bar is not None and self.in_bytes != in_bytes:
            self.close()  # what it counted was left unfinished
        if self.bar is None:
            from rich import progress

            columns = (
                (progress.DownloadColumn(), progress.TransferSpeedColumn())
                if in_bytes
                else (progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
            )
            description = progress.TextColumn("{task.description}", markup=False)
            self.bar = progress.Progress(description, progress.BarColumn(), *columns, console=self.err, transient=True)
            self.in_bytes = in_bytes
            self.bar.start()
            self.bar.add_task(what, total=total)
        self.bar.update(self.bar.task_ids[0], completed=done, total=total, description=what)

    def close(self) -> None:
        """Remove the progress bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def format_cell(value: object) -> str:
    """A value for a table cell."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
