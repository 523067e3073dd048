"""Options and Markdown tables shared by the benchmark scripts."""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cells import ROOT, Cell, Cells, commit, machine, say

from oddlens.errors import OddlensError

DASH = "–"


def data_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options of all scripts; its description is the first line of `text`, a docstring."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks", help="folder of the results")
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str], *, needs_data: bool = False) -> argparse.Namespace:
    """Parse a command line; the folder of data sets becomes absolute."""
    options = parser.parse_args(words)
    if options.data is None and needs_data:
        parser.error("--data is required")
    options.data = None if options.data is None else Path(options.data).resolve()
    return options


def cell_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options of all scripts whose results are cells."""
    parser = data_parser(text)
    parser.add_argument("--fresh", action="store_true", help="recompute the cells")
    parser.add_argument("--print", action="store_true", dest="printing", help="tables of cached cells only")
    parser.add_argument("extra", nargs="*", help="after --: further options of the commands")
    return parser


def fit_parser(text: str | None, sets: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of the options of scripts that fit and evaluate; what follows `--` goes to `oddlens fit`."""
    parser = cell_parser(text)
    parser.add_argument("--set", nargs="+", choices=sets, default=list(sets[:1]), metavar="SET", help=", ".join(sets))
    parser.add_argument("--detector", default="auto", help="family of detector (auto)")
    parser.add_argument("--budget", help="time that auto may take for a fit, such as 60s or 5m")
    parser.add_argument("--threads", type=int, help="processor threads")
    return parser


def open_cells(options: argparse.Namespace) -> Cells:
    """Return the cells in the folder that the options name."""
    return Cells(options.cache, options.data, fresh=options.fresh, printing=options.printing)


def show(options: argparse.Namespace, table: Callable[[Cells, str], str], typed: Sequence[str]) -> int:
    """Print the table of each requested set and its provenance; return the exit code."""
    failed = []
    for name in options.set:
        cells = open_cells(options)
        print(table(cells, name), provenance(list(cells.used.values()), typed_command(typed)), sep="\n\n", end="\n\n")
        failed += cells.failed
    if failed:
        say(f"error: {len(failed)} cells failed: {', '.join(failed)}; run the same command to retry them")
    return int(bool(failed))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], typed: Sequence[str], note: str = "") -> int:
    """Print a table, whose rows are computed as they are needed, and its command line; return the exit code."""
    try:
        table = markdown(columns, rows)
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    print(table, f"Table: `{typed_command(typed)}`{note}.", sep="\n\n")
    return 0


def where_measured() -> str:
    """The machine, its load now, and the commit."""
    return f"{machine()}, load {os.getloadavg()[0]:.1f}, commit {commit()}"


def typed_command(typed: Sequence[str]) -> str:
    """Return the script's command line, without local paths and options that do not change the table."""
    shown = []
    script, *words = typed
    remaining = iter(words)
    for word in remaining:
        name, equals, _ = word.partition("=")
        if name in ("--data", "--cache"):
            if not equals:
                next(remaining, None)
            shown += ["--data $DATA"] if name == "--data" else []
        elif word not in ("--print", "--fresh"):
            shown.append(shlex.quote(word))
    folder = "benchmarks/peers" if Path(script).parent.name == "peers" else "benchmarks"
    return " ".join(["python", f"{folder}/{Path(script).name}", *shown])


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, cell: Cell | None = None, digits: int = 3) -> str:
    """Format a number, with a dagger where other code computed it; None becomes a dash."""
    return DASH if value is None else f"{value:.{digits}f}" + (cell.mark if cell else "")


def percent(value: float | None) -> str:
    """Format a rate as a percentage; None becomes a dash."""
    return DASH if value is None else f"{value:.1%}"


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None without any."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def image_auroc(cell: Cell | None) -> float | None:
    """Return the image AUROC."""
    return None if cell is None else float(cell.result["image_auroc"])


def provenance(used: Sequence[Cell], typed: str) -> str:
    """Describe how the numbers were computed: commands, machine, versions, dates, and which are from other code."""
    if not used:
        return f"There are no cells yet for `{typed}`; run it without `--print` to compute them."
    slowest = max(used, key=lambda cell: cell.fit_seconds)
    lines = [f"Table: `{typed}`. A cell:", "", "```sh", *used[0].commands, "```", ""]
    lines.append(
        f"Longest fit: {slowest.fit_seconds:.1f} s (`seconds.fit`), {slowest.wall[0]:.1f} s for the whole process."
    )
    lines += machine_lines(used)
    for versions in {tuple(cell.versions.items()): None for cell in used}:
        lines.append("With " + ", ".join(f"{name} {version}" for name, version in versions) + ".")
    days = sorted({cell.made[:10] for cell in used})
    dates = days[0] + (f" to {days[-1]}" if len(days) > 1 else "")
    lines.append(f"Computed {dates}, commits {commits_of(used)}.")
    old = [cell for cell in used if cell.mark]
    if old:
        lines.append(f"† computed by other code than today's (commits {commits_of(old)}); `--fresh` recomputes it.")
    return "\n".join(lines)


def machine_lines(used: Sequence[Cell]) -> list[str]:
    """A line for each machine, with its load."""
    loads: dict[str, list[float]] = {}
    for cell in used:
        loads.setdefault(cell.machine, []).append(cell.load)
    return [
        f"Machine: {name}; load before the cells {min(all_):.1f} to {max(all_):.1f}." for name, all_ in loads.items()
    ]


def commits_of(cells: Sequence[Cell]) -> str:
    """List the commits of cells; a + marks uncommitted changes in the package."""
    return ", ".join(dict.fromkeys(cell.commit for cell in cells))
