"""Comparison with peers: a table from alternating runs (ours, theirs, ours, theirs, ...).

    python benchmarks/peers/run.py --peer torch-mnist torch-cifar --repeats 5 --data DIR
    python benchmarks/peers/run.py --peer ganomaly-tile --repeats 1 --data DIR
    python benchmarks/peers/run.py --peer patchcore-bottle patchcore-pill padim-pill --repeats 3 --data DIR

Each peer has its own environment, created from `requirements/` when missing, and runs as documented by its authors. A
pair of runs is a cell (see `cells.py`), so an interrupted run can be resumed; pair n uses random seed n on both sides.
What follows `--` goes to the peers' scripts: `--epochs 1 -- --images 200` is a smoke test. Where a machine's speed
varies within minutes, many short pairs are more reliable than few long ones: `--epochs 2 --as-if 10`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import PROGRAMS, Cell, Cells, Job, say
from environments import environment, megabytes
from tables import DASH, cell_parser, commits_of, machine_lines, markdown, open_cells, parse, typed_command

from oddlens.errors import OddlensError


class Peer(NamedTuple):
    """A script by or for another library, and our commands for the same task."""

    what: str
    venv: str
    theirs: str
    ours: tuple[str, ...]
    quality: str = "auroc"  # or "loss"


def recipe(what: str, script: str, name: str, quality: str) -> Peer:
    """A recipe as a plain script, and our commands that run it and show its training history."""
    run = f"oddlens run {name} --device cpu --data $DATA --out $OUT/ours"
    ours = (run, "oddlens show $OUT/ours/detector.safetensors")
    return Peer(
        f"{what} recipe, plain PyTorch", "torch", f"torch benchmarks/peers/plain_pytorch.py {script}", ours, quality
    )


def closed_form(family: str, name: str, extra: str = "") -> Peer:
    """A family that is fitted without training: seconds of fitting, and images per second from files to verdicts."""
    theirs = f"anomalib benchmarks/peers/anomalib_peer.py fit $DATA/{name} --model {family}"
    theirs = f"{theirs} --out runs/peers/models/{family}-{name} {extra}".rstrip()
    fit = f"oddlens fit $DATA/{name} --detector {family} --size 256 --device cpu -o $OUT/part.safetensors"
    export = "oddlens export $OUT/part.safetensors -o $OUT/part.onnx"
    score = f"oddlens score $OUT/part.onnx $DATA/{name}/test -o $OUT/verdicts.csv"
    return Peer(f"{name}, anomalib {family}", "anomalib", theirs, (fit, export, score))


PEERS = {
    "torch-mnist": recipe("MNIST", "mnist", "mnist", "loss"),
    "torch-cifar": recipe("CIFAR-10", "cifar", "cifar10-airplane", "auroc"),
    "ganomaly-tile": Peer(  # its model is read by `scoring_speed.py`
        "magnetic tile, anomalib GANomaly", "anomalib",
        "anomalib benchmarks/peers/anomalib_peer.py fit $DATA/magnetic-tile --out runs/peers/models/ganomaly-tile",
        (
            "oddlens fit $DATA/magnetic-tile --detector auto --budget 5m --device cpu -o $OUT/part.safetensors",
            "oddlens eval $OUT/part.safetensors $DATA/magnetic-tile",
        ),
    ),
    # As many rows as our default bank: 49 of each of 209 images, 38 of each of 267.
    "patchcore-bottle": closed_form("patchcore", "bottle", "--rows 10241"),
    "patchcore-pill": closed_form("patchcore", "pill", "--rows 10146"),
    "padim-pill": closed_form("padim", "pill"),
}  # fmt: skip


def pair(name: str, number: int, options: argparse.Namespace) -> Job:
    """Return the job of one pair: our run, then theirs."""
    peer, epochs = PEERS[name], f" --epochs {options.epochs}" if options.epochs else ""
    common = f" --seed {number} --threads {options.threads}"
    ours = [line + (epochs if line.startswith("oddlens run") else "") + common + " --json" for line in peer.ours]
    theirs = f"{peer.theirs} --data $DATA{epochs}{common} {' '.join(options.extra)}".rstrip()
    return Job(f"peer-{name}-{number}", (*ours, theirs))


def quality(result: dict[str, Any], which: str) -> float | None:
    """Return the loss or AUROC in the JSON of any of the commands; None without it."""
    if which == "loss":
        value = result.get("loss", result.get("history", {}).get("last_loss"))
    else:
        value = result.get("auroc", result.get("image_auroc"))
    return None if value is None else float(value)


def qualities(cells: list[Cell], which: str, *, ours: bool) -> str:
    """Format the mean over pairs, with the standard deviation if there are several."""
    results = [result for cell in cells for result in (cell.results[:-1] if ours else cell.results[-1:])]
    values = [value for result in results if (value := quality(result, which)) is not None]
    if not values:
        return DASH
    digits = 4 if which == "loss" else 3
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def seconds(cell: Cell, *, ours: bool, as_if: int | None) -> float:
    """Return the seconds of fitting and of the threshold, if the script has one; our `seconds.fit` includes both.

    With `as_if`, extrapolate to this number of epochs by the mean seconds per epoch.

    Raises:
        OddlensError: `as_if` is set, but a side does not report seconds per epoch.
    """
    if ours:
        total, history = cell.fit_seconds, cell.results[-2].get("history", {})
        count, epochs = history.get("epochs"), history.get("seconds")
    else:
        result, per_epoch = cell.result, cell.result.get("seconds_epochs", [])
        total = result["seconds_fit"] + result.get("seconds_threshold", 0.0)
        count, epochs = len(per_epoch), sum(per_epoch)
    if as_if is None:
        return float(total)
    if not count:
        raise OddlensError("--as-if needs the seconds per epoch, which one side does not report; run without it")
    return float(total + (as_if - count) * epochs / count)


def rate(result: dict[str, Any]) -> float | None:
    """Return the images per second from files to verdicts, where a command measured it."""
    if "n" in result and "score" in result.get("seconds", {}):  # `oddlens eval`, which does more, has no n
        return float(result["n"] / result["seconds"]["score"])
    return result.get("images_per_second") if "seconds_pass" in result else None


def rates(cells: list[Cell]) -> str:
    """Format the median images per second of both sides, and the median ratio."""
    pairs = [(rate(cell.results[-1]), rate(cell.results[-2])) for cell in cells]
    known = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
    if not known:
        return DASH
    theirs, ours = (statistics.median(side) for side in zip(*known, strict=True))
    return f"{theirs:.1f}, {ours:.1f}, **{statistics.median(our / their for their, our in known):.2f}**"


COLUMNS = (
    "fit", "pairs", "theirs, s", "ours, s", "theirs / ours: median (min to max)", "theirs", "ours",
    "images/s: theirs, ours, ours / theirs",
)  # fmt: skip
DETAILS = ("seconds_load", "seconds_threshold", "epochs", "auroc_own", "operations_per_image", "precision", "versions")


def row(peer: Peer, cells: list[Cell], as_if: int | None) -> list[str]:
    """Return the row of a peer."""
    if not cells:
        return [peer.what, *[DASH] * (len(COLUMNS) - 1)]
    theirs, ours = ([seconds(cell, ours=is_ours, as_if=as_if) for cell in cells] for is_ours in (False, True))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    mark = "".join(dict.fromkeys(cell.mark for cell in cells))
    return [
        peer.what, str(len(cells)), f"{statistics.median(theirs):.1f}", f"{statistics.median(ours):.1f}{mark}",
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{peer.quality} {qualities(cells, peer.quality, ours=False)}", qualities(cells, peer.quality, ours=True),
        rates(cells),
    ]  # fmt: skip


def notes(name: str, cells: list[Cell]) -> list[str]:
    """Return the commands of a row and further results of the peer's script."""
    if not cells:
        return []
    details = {key: cells[0].result[key] for key in DETAILS if key in cells[0].result}
    return [f"**{PEERS[name].what}**: {details}".replace("'", ""), "", "```sh", *cells[0].commands, "```", ""]


def table(cells: Cells, options: argparse.Namespace) -> str:
    """Return the table and its provenance. The pairs of different peers alternate."""
    pairs: dict[str, list[Cell]] = {name: [] for name in options.peer}
    for number in range(options.repeats):
        for name in options.peer:
            cell = cells.need(pair(name, number, options))
            pairs[name] += [cell] if cell else []
    rows = [row(PEERS[name], pairs[name], options.as_if) for name in options.peer]
    used = list(cells.used.values())
    lines = [markdown(COLUMNS, rows), "", *(line for name in options.peer for line in notes(name, pairs[name]))]
    lines += machine_lines(used)
    if used:
        lines.append(f"Commits {commits_of(used)}; † marks results of other code, which --fresh recomputes.")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Compute what is missing and print the table."""
    parser = cell_parser(__doc__)
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--epochs", type=int, help="epochs of both sides, instead of the recipe's")
    parser.add_argument("--as-if", type=int, help="with --epochs: extrapolate seconds to this number of epochs")
    parser.add_argument("--threads", type=int, default=2)
    options = parse(parser, words)
    cells = open_cells(options)
    try:
        for name in [] if options.printing else dict.fromkeys(PEERS[name].venv for name in options.peer):
            python = environment(name)
            PROGRAMS[name] = (str(python),)
            say(f"{name}: {megabytes(python):,.0f} MB installed, without pip")
        print(table(cells, options))
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    print(f"\nTable: `{typed_command([__file__, *words])}`.")
    if cells.failed:
        say(f"error: {len(cells.failed)} pairs failed: {', '.join(cells.failed)}; run the same command to retry them")
    return int(bool(cells.failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
