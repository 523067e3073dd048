"""What the two benchmark scripts share beside the cells: their options, and tables in Markdown."""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cells import ROOT, Cell, Cells, say

from oddlens.evaluation.baselines import THUMBNAIL_KINDS

DASH = "–"
THUMBNAILS = tuple(str(kind) for kind in THUMBNAIL_KINDS)  # 8, 32, 8 normalised, 32 normalised
PAIRS = ("thumbnails 8 / 32", "normalised 8 / 32")


class Published(NamedTuple):
    """A result that others published: its numbers, in hundredths of AUROC, in the order of the table's columns."""

    method: str
    numbers: tuple[float | None, ...]
    pretrained: bool = False


def parser(description: str, sets: Sequence[str]) -> argparse.ArgumentParser:
    """The options that both scripts have; what follows `--` goes to `oddlens fit` as it is."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--set", nargs="+", choices=sets, default=list(sets[:1]), metavar="SET", help=", ".join(sets))
    made.add_argument("--detector", default="auto", help="family of detector (auto)")
    made.add_argument("--budget", help="time that auto may take for a fit, such as 60s or 5m")
    made.add_argument("--threads", type=int, help="processor threads")
    made.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    made.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks", help="folder of the cells")
    made.add_argument("--fresh", action="store_true", help="make the cells anew")
    made.add_argument("--keep", action="store_true", help="keep detector files, in the cells' folder")
    made.add_argument("--print", action="store_true", dest="printing", help="tables of what is cached; run nothing")
    made.add_argument("extra", nargs="*", help="after --: further options of `oddlens fit`")
    return made


def budget(options: argparse.Namespace, usual: str) -> str | None:
    """The `--budget` of a fit: the one asked for; without one, `auto` gets the set's usual one, others none."""
    return options.budget or (usual if options.detector == "auto" else None) or None


def heading(name: str, options: argparse.Namespace, usual: str) -> str:
    """A table's title: the set and the settings that all its rows share."""
    limit = budget(options, usual)
    words = [f"--detector {options.detector}", *([f"--budget {limit}"] if limit else []), *options.extra]
    return f"### {name}, `{' '.join(words)}`"


def cells_of(options: argparse.Namespace) -> Cells:
    """The cells that the options speak of."""
    data = None if options.data is None else Path(options.data).resolve()
    return Cells(options.cache, data, fresh=options.fresh, printing=options.printing, keep=options.keep)


def show(options: argparse.Namespace, table: Callable[[Cells, str], str], typed: Sequence[str]) -> int:
    """Print the table of each set that was asked for, with where its numbers come from; gives the exit code."""
    failed = []
    for name in options.set:
        cells = cells_of(options)
        print(table(cells, name), provenance(list(cells.used.values()), as_typed(typed)), sep="\n\n", end="\n\n")
        failed += cells.failed
    if failed:
        say(f"error: {len(failed)} cells failed: {', '.join(failed)}; the same command tries them again")
    return int(bool(failed))


def as_typed(typed: Sequence[str]) -> str:
    """The script's own command line, without the places of this machine and without what does not change the table."""
    kept = []
    script, *words = typed
    given = iter(words)
    for word in given:
        name, equals, _ = word.partition("=")
        if name in ("--data", "--cache"):
            if not equals:
                next(given, None)
            kept += ["--data $DATA"] if name == "--data" else []
        elif word not in ("--print", "--fresh", "--keep"):
            kept.append(shlex.quote(word))
    return " ".join(["python", f"benchmarks/{Path(script).name}", *kept])


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; numbers' columns, all but the first, stand to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, cell: Cell | None = None, digits: int = 3) -> str:
    """A number, marked where older code made it; a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}" + (cell.mark if cell else "")


def percent(value: float | None) -> str:
    """A rate."""
    return DASH if value is None else f"{value:.1%}"


def interval(cell: Cell | None) -> str:
    """The AUROC's confidence interval."""
    return DASH if cell is None else "{:.3f} to {:.3f}".format(*cell.result["image_auroc_ci"])


def rates(cell: Cell | None) -> tuple[float | None, float | None]:
    """The measured shares of normal and of anomalous images that were flagged."""
    return (None, None) if cell is None else (cell.result["false_alarm_rate_measured"], cell.result["detection_rate"])


def alarms(cell: Cell | None) -> str:
    """The measured share of normal images that were flagged, and the share that was asked for."""
    measured, asked = rates(cell)[0], cell.result["false_alarm_rate"] if cell else None
    return percent(measured) + (f" ({percent(asked)})" if asked else "")


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def image_auroc(cell: Cell | None) -> float | None:
    """The AUROC over images."""
    return None if cell is None else float(cell.result["image_auroc"])


def thumbnail_aurocs(cell: Cell | None, kind: str | None = None) -> list[float | None]:
    """The baseline's AUROC with each of `THUMBNAILS`, for all anomalies or one kind."""
    if cell is None:
        return [None] * len(THUMBNAILS)
    results = [cell.result[name] for name in THUMBNAILS]
    return [each["per_class"].get(kind) if kind else each["image_auroc"] for each in results]


def pairs(values: Sequence[float | None], cell: Cell | None = None) -> tuple[str, str]:
    """The baseline's numbers in two columns, whose names are `PAIRS`."""
    shown = [number(value, cell) for value in values]
    return f"{shown[0]} / {shown[1]}", f"{shown[2]} / {shown[3]}"


def beside(ours: str, numbers: Sequence[float | None], published: Sequence[Published], columns: Sequence[str]) -> str:
    """Our numbers, as shares of 1, among the published ones, the best mean last."""
    rows = [Published(ours, tuple(None if value is None else 100 * value for value in numbers)), *published]
    rows.sort(key=lambda row: row.numbers[0] if row.numbers[0] is not None else -1.0)
    lines = []
    for row in rows:
        shown = [number(value, digits=1) for value in row.numbers]
        emphasis = "**" if row.method == ours else ""
        needs = "pretrained elsewhere" if row.pretrained else "from scratch"
        lines.append([f"{emphasis}{row.method}{emphasis}", *shown, needs])
    return markdown(["method (published, but for ours)", *columns, "network"], lines)


def provenance(used: Sequence[Cell], typed: str) -> str:
    """How the numbers came about: commands, machine, versions, dates, and which are of older code."""
    if not used:
        return f"No cell is there yet for `{typed}`; without `--print` it makes them."
    lines = [f"Table: `{typed}`."]
    fits = [cell for cell in used if cell.detector]
    if fits:
        fits = [cell for cell in fits if cell.detector == fits[0].detector]  # not those that stand beside ours
        slowest = max(fits, key=lambda cell: cell.fit_seconds)
        lines += ["A cell:", "", "```sh", *fits[0].commands, "```", ""]
        lines.append(
            f"Longest fit: {slowest.fit_seconds:.1f} s by its own count (`seconds.fit`), {slowest.wall[0]:.1f} s for "
            "the whole process."
        )
    for machine in dict.fromkeys(cell.machine for cell in used):
        own = [cell for cell in used if cell.machine == machine]
        loads = [cell.load for cell in own]
        lines.append(f"Machine: {machine}; load before the cells {min(loads):.1f} to {max(loads):.1f}.")
    for versions in {tuple(cell.versions.items()): None for cell in used}:
        lines.append("With " + ", ".join(f"{name} {version}" for name, version in versions) + ".")
    days = sorted({cell.made[:10] for cell in used})
    lines.append(f"Made {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") + f", commits {commits(used)}.")
    old = [cell for cell in used if cell.mark]
    if old:
        lines.append(f"† made by other code than today's (commits {commits(old)}); `--fresh` makes it anew.")
    return "\n".join(lines)


def commits(cells: Sequence[Cell]) -> str:
    """The commits that made them; a + says that the package had changes on top."""
    return ", ".join(dict.fromkeys(cell.commit for cell in cells))
