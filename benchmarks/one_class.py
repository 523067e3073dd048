"""Tables of what detectors detect where one class of a named data set is normal: a row for each class, and their mean.

    python benchmarks/one_class.py --set cifar10 --data DIR
    python benchmarks/one_class.py --set cifar10 --budget 60s --print

Each row is one command line; all rows have the same settings. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cells import Cell, Cells, fit_and_eval, say
from tables import DASH, fit_parser, image_auroc, markdown, mean, number, parse, percent, show

from oddlens.data.open import open_dataset
from oddlens.data.sources.named import PUBLISHED_SETS
from oddlens.errors import DataNotFoundError

SETS = ("cifar10", "mnist", "fashion-mnist")
BUDGET = "5m"  # of `auto`
REPEATED = {"cifar10": ("airplane", "automobile", "cat")}  # run with all seeds; other classes with the first


@dataclass(frozen=True)
class Row:
    """Cells of one class, one for each seed; None where there are none."""

    kind: str
    cells: tuple[Cell | None, ...]

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """AUROC, false alarms and share caught of the first seed, which are averaged in the last row."""
        first = self.cells[0]
        keys = ("image_auroc", "false_alarm_rate_measured", "detection_rate")
        return tuple(None if first is None else float(first.result[key]) for key in keys)

    @property
    def seconds(self) -> float | None:
        """Longest fit in seconds."""
        return max((cell.fit_seconds for cell in self.cells if cell), default=None)

    @property
    def spread(self) -> str:
        """Mean and standard deviation over seeds."""
        cells = [cell for cell in self.cells if cell]
        values = [float(cell.result["image_auroc"]) for cell in cells]
        if len(values) < 2:
            return DASH
        marks = max(cell.mark for cell in cells)
        return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} ({len(values)}){marks}"

    def shown(self) -> tuple[str, ...]:
        """Return the formatted row."""
        first, (_, alarms, caught) = self.cells[0], self.numbers
        interval = "{:.3f} to {:.3f}".format(*first.result["image_auroc_ci"]) if first else DASH
        requested = f" ({percent(first.result['false_alarm_rate'])})" if first else ""
        return (
            self.kind, number(image_auroc(first), first), interval, self.spread, percent(alarms) + requested,
            percent(caught), number(self.seconds, digits=1),
        )  # fmt: skip


def class_row(cells: Cells, name: str, kind: str, options: argparse.Namespace) -> Row:
    """Return the cells of one class, computed where missing."""
    seeds = options.seeds if kind in REPEATED.get(name, ()) else options.seeds[:1]
    jobs = [
        fit_and_eval(
            name, kind, options.detector, seed, budget=options.budget, threads=options.threads, extra=options.extra
        )
        for seed in seeds
    ]
    return Row(kind, tuple(cells.need(job) for job in jobs))


def table(cells: Cells, name: str, options: argparse.Namespace) -> str:
    """Return the table of a data set, below its heading."""
    if not cells.printing:
        check_files(cells, name)
    rows = [class_row(cells, name, kind, options) for kind in options.classes or PUBLISHED_SETS[name].classes]
    columns = (
        "normal class", f"AUROC, seed {options.seeds[0]}", "95% interval", "mean ± sd (seeds)",
        "false alarms (requested)", "caught", "`seconds.fit`",
    )  # fmt: skip
    limit = [f"--budget {options.budget}"] if options.budget else []
    settings = " ".join([f"--detector {options.detector}", *limit, *options.extra])
    return f"### {name}, `{settings}`\n\n{markdown(columns, [*(row.shown() for row in rows), last_row(rows)])}"


def last_row(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the means over classes, with the number of classes where some are missing, and the longest fit."""
    auroc, alarms, caught = (mean(column) for column in zip(*(row.numbers for row in rows), strict=True))
    count = sum(row.cells[0] is not None for row in rows)
    of_rows = f" ({count} of {len(rows)})" if 0 < count < len(rows) else ""
    longest = max((row.seconds for row in rows if row.seconds), default=None)
    return (
        f"**mean** of {len(rows)}", f"**{number(auroc)}**{of_rows}", "", "", percent(alarms), percent(caught),
        f"longest {number(longest, digits=1)}",
    )  # fmt: skip


def check_files(cells: Cells, name: str) -> None:
    """If a data set's files are missing, only print its cached cells, so that no cell downloads them."""
    try:
        open_dataset(name, data_dir=cells.data, download=False)
    except DataNotFoundError as error:
        say(f"error: {error}")
        cells.failed.append(name)
        cells.printing = True


def seeds(text: str) -> tuple[int, ...]:
    """Parse random seeds such as "0,1,2"."""
    return tuple(int(part) for part in text.split(","))


def main(words: Sequence[str]) -> int:
    """Compute what is missing and print the tables."""
    parser = fit_parser(__doc__, SETS)
    parser.add_argument("--classes", nargs="+", help="only these normal classes")
    parser.add_argument("--seeds", type=seeds, default=(0, 1, 2), help="0,1,2; the table shows the first")
    options = parse(parser, words)
    if options.budget is None and options.detector == "auto":
        options.budget = BUDGET
    return show(options, lambda cells, name: table(cells, name, options), [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
