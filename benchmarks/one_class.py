"""One-class tables: one class is normal and the others are anomalies; and MNIST digits against distorted ones.

    python benchmarks/one_class.py --set cifar10 --data DIR
    python benchmarks/one_class.py --set mnist mnist-all --data DIR
    python benchmarks/one_class.py --set cifar10 --budget 60s --print

Each row is one command line, with the same settings for all classes. See benchmarks/README.md.
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
    Published,
    alarms,
    budget,
    heading,
    image_auroc,
    interval,
    make_parser,
    markdown,
    mean,
    number,
    pairs,
    percent,
    ranking,
    rates,
    show,
    thumbnail_aurocs,
)

from oddlens.data.open import open_dataset
from oddlens.data.sources.named import PUBLISHED_SETS as NAMED
from oddlens.errors import DataNotFoundError

BUDGET = "5m"
ALL_DIGITS = "mnist-all"
REPEATED = {"cifar10": ("airplane", "automobile", "cat")}  # run with all seeds; other classes with the first
ROTATIONS = ("quarter_turn", "upside_down")  # 0, 1 and 8 look alike when rotated

PUBLISHED = {
    "cifar10": (
        Published("OCSVM", (64.8, None)),
        Published("KDE", (64.9, 61.2)),
        Published("DCAE", (59.4, 59.1)),
        Published("AnoGAN", (61.8, 67.1)),
        Published("Deep SVDD", (64.8, 61.7)),
        Published("OCGAN", (65.7, 75.7)),
        Published("GeoTrans", (86.0, 74.7)),
        Published("GOAD", (88.2, 75.5)),
        Published("Rot", (88.4, 78.3)),
        Published("Rot+Trans", (89.8, 80.4)),
        Published("SSD", (90.0, 82.7)),
        Published("DROC", (92.5, None)),
        Published("CSI", (94.3, 89.9)),
        Published("UniCon-HA", (95.4, 91.7)),
        Published("PANDA", (96.2, None), pretrained=True),
        Published("Mean-Shifted", (98.6, None), pretrained=True),
    ),
    "mnist": (
        Published("KDE", (86.9,)),
        Published("DCAE", (89.7,)),
        Published("OCSVM", (91.3,)),
        Published("AnoGAN", (93.7,)),
        Published("Deep SVDD", (94.8,)),
        Published("AE", (97.2,)),
        Published("OCGAN", (97.5,)),
        Published("GeoTrans", (98.0,)),
        Published("ARNet", (98.3,)),
    ),
    "fashion-mnist": (
        Published("Deep SVDD", (92.3,)),
        Published("AE", (92.4,)),
        Published("GT", (93.5,)),
        Published("ARNet", (93.9,)),
    ),
}


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
    ours = [
        cells.need(
            fit_and_eval(
                name, kind, options.detector, seed,
                budget=budget(options, BUDGET), threads=options.threads, extra=options.extra,
            )
        )
        for seed in (options.seeds if kind in REPEATED.get(name, ()) else options.seeds[:1])
    ]  # fmt: skip
    plain = cells.cached(fit_and_eval(name, kind, "autoencoder", options.seeds[0], threads=options.threads))
    return Row(kind, tuple(ours), plain, cells.need(thumbnails(name, kind)))


def one_class(cells: Cells, name: str, options: argparse.Namespace) -> str:
    """Return the table of a data set: a row per class, their mean, and the published numbers."""
    classes = NAMED[name].classes
    rows = [class_row(cells, name, kind, options) for kind in options.classes or classes]
    columns = (
        "normal class", f"AUROC, seed {options.seeds[0]}", "95% interval", "mean ± sd (seeds)",
        "false alarms (requested)", "caught", "`seconds.fit`", "autoencoder", *PAIRS,
    )  # fmt: skip
    parts = [heading(name, options, BUDGET), markdown(columns, [*(row.shown() for row in rows), last_row(rows)])]
    aurocs = {row.kind: row.numbers[0] for row in rows if row.numbers[0] is not None}
    if set(aurocs) == set(classes) and name in PUBLISHED:
        titles = ("mean", "airplane")[: len(PUBLISHED[name][0].numbers)]
        ours = (mean(list(aurocs.values())), aurocs.get("airplane"))[: len(titles)]
        parts.append(ranking(f"oddlens, {options.detector}", ours, PUBLISHED[name], titles))
    return "\n\n".join(parts)


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


def seconds(value: float) -> str:
    """Format a duration; zero becomes a dash."""
    return f"{value:.1f}" if value else DASH


def all_digits_job(detector: str, options: argparse.Namespace, extra: Sequence[str] = ()) -> Job:
    """Return the job of the recipe `mnist` with another detector."""
    seed = str(options.seeds[0])
    words = ["oddlens", "run", "mnist", "--detector", detector, *extra, "--data", "$DATA", "--seed", seed]
    words += ["--threads", str(options.threads)] if options.threads else []
    return Job(f"{ALL_DIGITS}-{detector}-s{seed}", (format_command([*words, "--json", "--out", "$OUT"]),))


def all_digits(cells: Cells, options: argparse.Namespace) -> str:
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
    columns = ("every digit is normal; shown", "AUROC", "caught", "autoencoder", *PAIRS)
    return "\n\n".join([heading(ALL_DIGITS, options, ""), markdown(columns, rows), note])


def main(words: Sequence[str]) -> int:
    """Compute what is missing and print the tables."""
    parser = make_parser(__doc__.partition("\n")[0], ("cifar10", "mnist", ALL_DIGITS, "fashion-mnist"))
    parser.add_argument("--classes", nargs="+", help="only these normal classes")
    parser.add_argument("--seeds", type=seeds, default=(0, 1, 2), help="0,1,2; the table shows the first")
    options = parser.parse_args(words)
    if options.budget and ALL_DIGITS in options.set:
        parser.error(f"{ALL_DIGITS} runs the recipe mnist, which takes no --budget; leave it out")

    def table(cells: Cells, name: str) -> str:
        if not cells.printing:
            check_files(cells, "mnist" if name == ALL_DIGITS else name)
        return all_digits(cells, options) if name == ALL_DIGITS else one_class(cells, name, options)

    return show(options, table, [__file__, *words])


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
