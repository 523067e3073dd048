"""Tables of what detectors detect: one class is normal, MNIST digits are distorted, or parts have defects.

    python benchmarks/one_class.py --set cifar10 --data DIR
    python benchmarks/one_class.py --set mnist mnist-all --data DIR
    python benchmarks/one_class.py --set magnetic-tile tiles --data DIR
    python benchmarks/one_class.py --set cifar10 --budget 60s --print

Each row is one command line; all rows have the same settings. Those of magnetic tiles were chosen on
`magnetic-tile-dev`. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cells import Cell, Cells, Job, fit_and_eval, format_command, say, thumbnails
from tables import (
    DASH,
    PAIRS,
    THUMBNAILS,
    alarms,
    budget,
    fit_parser,
    heading,
    image_auroc,
    interval,
    markdown,
    mean,
    number,
    pairs,
    parse,
    percent,
    rates,
    show,
    thumbnail_aurocs,
)

from oddlens.data.open import open_dataset
from oddlens.data.sources.named import PUBLISHED_SETS as NAMED
from oddlens.errors import DataNotFoundError

BUDGETS = {"magnetic-tile": "15m", "mnist-all": ""}  # of `auto`; of the other sets `BUDGET`
BUDGET = "5m"
ALL_DIGITS = "mnist-all"
DEFECTS = {"magnetic-tile": "$DATA/magnetic-tile", "tiles": "tiles"}  # sets of parts with defects -> source
REPEATED = {"cifar10": ("airplane", "automobile", "cat")}  # run with all seeds; other classes with the first
ROTATIONS = ("quarter_turn", "upside_down")  # 0, 1 and 8 look alike when rotated


def job(name: str, source: str, kind: str | None, seed: int, options: argparse.Namespace) -> Job:
    """Return the job of a cell of the table's detector."""
    limit = budget(options, BUDGETS.get(name, BUDGET))
    return fit_and_eval(
        source, kind, options.detector, seed, budget=limit, threads=options.threads, extra=options.extra
    )


@dataclass(frozen=True)
class Row:
    """Cells of one class: ours, one per seed, the plain autoencoder's and the baseline's."""

    kind: str
    ours: tuple[Cell | None, ...]
    plain: Cell | None
    baseline: Cell | None

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Numbers averaged in the last row: our AUROC and rates, and the AUROC of autoencoder and baselines."""
        first = self.ours[0]
        return image_auroc(first), *rates(first), image_auroc(self.plain), *thumbnail_aurocs(self.baseline)

    @property
    def seconds(self) -> float:
        """Longest fit in seconds; 0 without any."""
        return max((cell.fit_seconds for cell in self.ours if cell), default=0.0)

    @property
    def spread(self) -> str:
        """Mean and standard deviation over seeds."""
        cells = [cell for cell in self.ours if cell]
        values = [float(cell.result["image_auroc"]) for cell in cells]
        if len(values) < 2:
            return DASH
        marks = max(cell.mark for cell in cells)
        return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} ({len(values)}){marks}"

    def shown(self) -> tuple[str, ...]:
        """Return the formatted row."""
        auroc, _, caught, plain, *small = self.numbers
        first = self.ours[0]
        return (
            self.kind, number(auroc, first), interval(first), self.spread, alarms(first), percent(caught),
            seconds(self.seconds), number(plain, self.plain), *pairs(small, self.baseline),
        )  # fmt: skip


def class_row(cells: Cells, name: str, kind: str, options: argparse.Namespace) -> Row:
    """Return the cells of one class, computed where missing; the autoencoder's is only read from the cache."""
    used = options.seeds if kind in REPEATED.get(name, ()) else options.seeds[:1]
    ours = tuple(cells.need(job(name, name, kind, seed, options)) for seed in used)
    plain = cells.cached(fit_and_eval(name, kind, "autoencoder", options.seeds[0], threads=options.threads))
    return Row(kind, ours, plain, cells.need(thumbnails(name, kind)))


def one_class(cells: Cells, name: str, options: argparse.Namespace) -> list[str]:
    """Return the table of a data set: a row per class, and their mean."""
    rows = [class_row(cells, name, kind, options) for kind in options.classes or NAMED[name].classes]
    columns = (
        "normal class", f"AUROC, seed {options.seeds[0]}", "95% interval", "mean ± sd (seeds)",
        "false alarms (requested)", "caught", "`seconds.fit`", "autoencoder", *PAIRS,
    )  # fmt: skip
    return [markdown(columns, [*(row.shown() for row in rows), last_row(rows)])]


def last_row(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the means over classes, with the number of classes where some are missing, and the longest fit."""
    columns = [
        [value for value in column if value is not None] for column in zip(*(row.numbers for row in rows), strict=True)
    ]
    counts = [f" ({len(column)} of {len(rows)})" if 0 < len(column) < len(rows) else "" for column in columns]
    auroc, false_alarms, caught, plain, *small = (mean(column) for column in columns)
    return (
        f"**mean** of {len(rows)}", f"**{number(auroc)}**{counts[0]}", "", "", percent(false_alarms), percent(caught),
        f"longest {seconds(max(row.seconds for row in rows))}", number(plain) + counts[3], *pairs(small),
    )  # fmt: skip


def all_digits_job(detector: str, options: argparse.Namespace, extra: Sequence[str] = ()) -> Job:
    """Return the job of the recipe `mnist` with another detector."""
    seed = str(options.seeds[0])
    words = ["oddlens", "run", "mnist", "--detector", detector, *extra, "--data", "$DATA", "--seed", seed]
    words += ["--threads", str(options.threads)] if options.threads else []
    return Job(f"{ALL_DIGITS}-{detector}-s{seed}", (format_command([*words, "--json", "--out", "$OUT"]),))


def all_digits(cells: Cells, options: argparse.Namespace) -> list[str]:
    """Return a table with a row per distortion or pattern, and mean and minimum of all but rotated digits."""
    ours = cells.need(all_digits_job(options.detector, options, options.extra))
    plain = cells.cached(all_digits_job("autoencoder", options))
    baseline = cells.need(thumbnails("mnist", recipe="mnist"))
    metrics, theirs = (cell.result["per_class"] if cell else {} for cell in (ours, plain))
    kinds = [kind for kind in metrics if metrics[kind]["auroc"] is not None]

    def row(title: str, shown: Sequence[str]) -> tuple[str, ...]:
        columns = [[table[kind][what] for kind in shown if kind in table] for table, what in
                   ((metrics, "auroc"), (metrics, "detection_rate"), (theirs, "auroc"))]  # fmt: skip
        auroc, caught, other = (mean(column) for column in columns)
        small = [mean(column) for column in zip(*(thumbnail_aurocs(baseline, kind) for kind in shown), strict=True)]
        return title, number(auroc, ours), percent(caught), number(other, plain), *pairs(small, baseline)

    rows = [row(kind, [kind]) for kind in kinds]
    straight = [kind for kind in kinds if kind not in ROTATIONS]
    if straight:
        lowest = min(straight, key=lambda kind: float(metrics[kind]["auroc"]))
        rows.append(row(f"**mean** without {' and '.join(ROTATIONS)}", straight))
        rows.append(row(f"lowest of them: {lowest}", [lowest]))
    note = f"False alarms (requested): {alarms(ours)}; `seconds.fit` {seconds(ours.fit_seconds if ours else 0)}."
    return [markdown(("every digit is normal; shown", "AUROC", "caught", "autoencoder", *PAIRS), rows), note]


def defects(cells: Cells, name: str, options: argparse.Namespace) -> list[str]:
    """Return the tables of parts with defects: detectors and baselines, and kinds of defects."""
    source, seed = DEFECTS[name], options.seeds[0]
    ours = cells.need(job(name, source, None, seed, options))
    plain = cells.cached(fit_and_eval(source, None, "autoencoder", seed, threads=options.threads))
    baseline = cells.need(thumbnails(source))
    columns = (
        "detector", "image AUROC", "95% interval", "pixel AUROC", "AUPRO", "false alarms (requested)", "caught",
        "`seconds.fit`",
    )  # fmt: skip
    rows = [detector_row(f"**{options.detector}**", ours)]
    rows += [detector_row("autoencoder", plain)] if options.detector != "autoencoder" else []
    for kind, value in zip(THUMBNAILS, thumbnail_aurocs(baseline), strict=True):
        rows.append((f"nearest thumbnail, {kind}", number(value, baseline), *[""] * (len(columns) - 2)))
    return [markdown(columns, rows), *([] if ours is None else [defect_table(ours, plain, baseline)])]


def detector_row(title: str, cell: Cell | None) -> tuple[str, ...]:
    """Return the row of one detector."""
    result = cell.result if cell else {}
    return (
        title, number(image_auroc(cell), cell), interval(cell), number(result.get("pixel_auroc"), cell),
        number(result.get("aupro"), cell), alarms(cell), percent(rates(cell)[1]),
        seconds(cell.fit_seconds if cell else 0),
    )  # fmt: skip


def defect_table(ours: Cell, plain: Cell | None, baseline: Cell | None) -> str:
    """Return the table of AUROCs by kind of defect."""
    theirs = plain.result["per_class"] if plain else {}
    rows = []
    for kind, metrics in ours.result["per_class"].items():
        if metrics["auroc"] is not None:
            other = theirs.get(kind, {}).get("auroc")
            numbers = (number(metrics["auroc"], ours), percent(metrics["detection_rate"]), number(other, plain))
            rows.append((kind, str(metrics["n"]), *numbers, *pairs(thumbnail_aurocs(baseline, kind), baseline)))
    return markdown(("defect", "images", "AUROC", "caught", "autoencoder", *PAIRS), rows)


def seconds(value: float) -> str:
    """Format a duration; zero becomes a dash."""
    return f"{value:.1f}" if value else DASH


def table(cells: Cells, name: str, options: argparse.Namespace) -> str:
    """Return the table of a set, below its heading."""
    if name in DEFECTS:
        parts = defects(cells, name, options)
    else:
        if not cells.printing:
            check_files(cells, "mnist" if name == ALL_DIGITS else name)
        parts = all_digits(cells, options) if name == ALL_DIGITS else one_class(cells, name, options)
    return "\n\n".join([heading(name, options, BUDGETS.get(name, BUDGET)), *parts])


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
    parser = fit_parser(__doc__, ("cifar10", "mnist", ALL_DIGITS, "fashion-mnist", *DEFECTS))
    parser.add_argument("--classes", nargs="+", help="only these normal classes")
    parser.add_argument("--seeds", type=seeds, default=(0, 1, 2), help="0,1,2; the table shows the first")
    options = parse(parser, words)
    if options.budget and ALL_DIGITS in options.set:
        parser.error(f"{ALL_DIGITS} runs the recipe mnist, which takes no --budget; leave it out")
    return show(options, lambda cells, name: table(cells, name, options), [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
