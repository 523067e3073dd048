"""Comparison with peers: a table from alternating runs (ours, theirs, ours, theirs, ...).

    python benchmarks/peers/run.py --peer keras-mnist torch-mnist torch-cifar --repeats 5 --data DIR
    python benchmarks/peers/run.py --peer pyod-autoencoder pyod-deepsvdd --repeats 3 --data DIR
    python benchmarks/peers/run.py --peer ganomaly-tile ganomaly-airplane --repeats 1 --data DIR

Each peer has its own environment, created from `requirements/` when missing, and runs as documented by its authors. A
pair of runs is a cell (see `cells.py`), so an interrupted run can be resumed; pair n uses random seed n on both sides.
What follows `--` goes to the peers' scripts: `--epochs 1 -- --images 200` is a smoke test. Where a machine's speed
varies within minutes, many short pairs are more reliable than few long ones: `--epochs 2 --as-if 10`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import PROGRAMS, Cell, Cells, Job, say
from environments import VENVS, environment
from tables import DASH, cell_parser, commits_of, machine_lines, markdown, open_cells, parse

from oddlens.errors import OddlensError

INSTALLED = {  # environment -> the import needed to get started
    "oddlens-core": "from oddlens import Detector",
    "oddlens-train": "import oddlens.training.loop",
    "keras": "import tensorflow, keras",
    "torch": "import torch",
    "pyod": "from pyod.models.auto_encoder import AutoEncoder",
    "anomalib": "from anomalib.models import Ganomaly",
}


@dataclass(frozen=True)
class Peer:
    """A script by or for another library, and our commands for the same task."""

    what: str
    venv: str
    theirs: str
    ours: tuple[str, ...]
    quality: str = "auroc"  # or "loss"


def recipe(name: str) -> tuple[str, ...]:
    """Return the commands that run a recipe and show its training history."""
    return (
        f"oddlens run {name} --device cpu --data $DATA --out $OUT/ours",
        "oddlens show $OUT/ours/detector.safetensors",
    )


def auto(data: str, budget: str) -> tuple[str, ...]:
    """Return the commands that fit `auto` and evaluate it on the test images."""
    part = "$OUT/part.safetensors"
    return f"oddlens fit {data} --detector auto --budget {budget} --device cpu -o {part}", f"oddlens eval {part} {data}"


def ganomaly(source: str) -> str:
    """Return the command that trains and exports GANomaly to the folder read by `scoring_speed.py`."""
    return f"anomalib benchmarks/peers/anomalib_peer.py fit {source} --out runs/peers/models/ganomaly-{source}"


AIRPLANE, TILE = "cifar10 --normal airplane --data $DATA", "$DATA/magnetic-tile"
PEERS = {
    "keras-mnist": Peer(
        "MNIST recipe, plain Keras", "keras", "keras benchmarks/peers/plain_keras_mnist.py", recipe("mnist"), "loss"
    ),
    "torch-mnist": Peer(
        "MNIST recipe, plain PyTorch", "torch", "torch benchmarks/peers/plain_pytorch.py mnist", recipe("mnist"), "loss"
    ),
    "torch-cifar": Peer(
        "CIFAR-10 recipe, plain PyTorch", "torch", "torch benchmarks/peers/plain_pytorch.py cifar",
        recipe("cifar10-airplane"),
    ),
    "pyod-autoencoder": Peer(
        "airplane, PyOD AutoEncoder", "pyod", "pyod benchmarks/peers/pyod_cifar.py --model autoencoder",
        recipe("cifar10-airplane"),
    ),
    "pyod-deepsvdd": Peer(
        "airplane, PyOD DeepSVDD", "pyod", "pyod benchmarks/peers/pyod_cifar.py --model deepsvdd",
        recipe("cifar10-airplane"),
    ),
    "ganomaly-airplane": Peer(
        "airplane, anomalib GANomaly", "anomalib", ganomaly("cifar10-airplane"), auto(AIRPLANE, "60s")
    ),
    "ganomaly-tile": Peer(
        "magnetic tile, anomalib GANomaly", "anomalib", ganomaly("magnetic-tile"), auto(TILE, "5m")
    ),
}  # fmt: skip


def pair(name: str, number: int, options: argparse.Namespace) -> Job:
    """Return the job of one pair: our run, then theirs."""
    peer, epochs = PEERS[name], f" --epochs {options.epochs}" if options.epochs else ""
    common = f" --seed {number} --threads {options.threads}"
    ours = [line + (epochs if line.startswith("oddlens run") else "") + common + " --json" for line in peer.ours]
    theirs = f"{peer.theirs} --data $DATA{epochs}{common} {' '.join(options.extra)}".rstrip()
    return Job(f"peer-{name}-{number}", (*ours, theirs))


def installed(name: str) -> Job:
    """Return the job that measures the size and import time of an environment."""
    return Job(f"installed-{name}", (f"{name} benchmarks/peers/installed.py '{INSTALLED[name]}'",))


def quality(result: dict[str, Any], which: str) -> float | None:
    """Return the loss or AUROC in the JSON of any of the commands; None without it."""
    if which == "loss":
        value = result.get("loss", result.get("history", {}).get("last_loss"))
    else:
        value = result.get("auroc", result.get("image_auroc"))
    return None if value is None else float(value)


def qualities(cells: list[Cell], which: str, *, ours: bool) -> str:
    """Format the mean over pairs, with the standard deviation if there are several."""
    values = []
    for cell in cells:
        results = cell.results[:-1] if ours else cell.results[-1:]
        values += [value for result in results if (value := quality(result, which)) is not None]
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


def weight(cell: Cell | None) -> list[str]:
    """Format megabytes, packages and seconds of the import."""
    if cell is None:
        return [DASH] * 3
    result = cell.result
    return [f"{result['megabytes']:,.0f}", str(result["packages"]), f"{result['seconds_import']:.2f}"]


def row(peer: Peer, cells: list[Cell], install: Cell | None, as_if: int | None) -> list[str]:
    """Return the row of a peer."""
    if not cells:
        return [peer.what, *[DASH] * 6, *weight(install)]
    theirs, ours = ([seconds(cell, ours=is_ours, as_if=as_if) for cell in cells] for is_ours in (False, True))
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    mark = "".join(dict.fromkeys(cell.mark for cell in cells))
    return [
        peer.what, str(len(cells)), f"{statistics.median(theirs):.1f}", f"{statistics.median(ours):.1f}{mark}",
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{peer.quality} {qualities(cells, peer.quality, ours=False)}", qualities(cells, peer.quality, ours=True),
        *weight(install),
    ]  # fmt: skip


COLUMNS = (
    "fit", "pairs", "theirs, s", "ours, s", "theirs / ours: median (min to max)", "theirs", "ours", "MB installed",
    "packages", "import, s",
)  # fmt: skip
SHOWN_KEYS = (
    "seconds_load",
    "seconds_threshold",
    "epochs",
    "auroc_own",
    "operations_per_image",
    "images_per_second",
    "precision",
    "versions",
)


def notes(name: str, cells: list[Cell]) -> list[str]:
    """Return the commands of a row and further results of the peer's script."""
    if not cells:
        return []
    details = {key: cells[0].result[key] for key in SHOWN_KEYS if key in cells[0].result}
    return [f"**{PEERS[name].what}**: {details}".replace("'", ""), "", "```sh", *cells[0].commands, "```", ""]


def table(cells: Cells, options: argparse.Namespace) -> str:
    """Return the table and its provenance. The pairs of different peers alternate."""
    pairs: dict[str, list[Cell]] = {name: [] for name in options.peer}
    for number in range(options.repeats):
        for name in options.peer:
            cell = cells.need(pair(name, number, options))
            pairs[name] += [cell] if cell else []
    venvs = {name: cells.need(installed(name)) for name in environments(options)}
    rows = [row(PEERS[name], pairs[name], venvs[PEERS[name].venv], options.as_if) for name in options.peer]
    rows += [[name, *[DASH] * 6, *weight(venvs[name])] for name in ("oddlens-core", "oddlens-train")]
    used = list(cells.used.values())
    lines = [markdown(COLUMNS, rows), "", *(line for name in options.peer for line in notes(name, pairs[name]))]
    lines += machine_lines(used)
    if used:
        lines.append(f"Commits {commits_of(used)}; † marks results of other code, which --fresh recomputes.")
    return "\n".join(lines)


def environments(options: argparse.Namespace) -> list[str]:
    """Return the names of the environments in the table."""
    return list(dict.fromkeys([*(PEERS[name].venv for name in options.peer), "oddlens-core", "oddlens-train"]))


def main(words: list[str]) -> int:
    """Compute what is missing and print the table."""
    parser = cell_parser(__doc__)
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--epochs", type=int, help="epochs of both sides, instead of the recipe's")
    parser.add_argument("--as-if", type=int, help="with --epochs: extrapolate seconds to this number of epochs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--venvs", type=Path, default=VENVS, help="folder of the peers' environments")
    options = parse(parser, words)
    try:
        for name in [] if options.printing else environments(options):
            PROGRAMS[name] = (str(environment(options.venvs, name)),)
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    cells = open_cells(options)
    arguments = f"--peer {' '.join(options.peer)} --repeats {options.repeats} --threads {options.threads} --data $DATA"
    arguments += f" --epochs {options.epochs}" * bool(options.epochs)
    arguments += f" --as-if {options.as_if}" * bool(options.as_if)
    arguments += f" -- {' '.join(options.extra)}" * bool(options.extra)
    try:
        print(table(cells, options), f"\n\nTable: `python benchmarks/peers/run.py {arguments}`.")
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    if cells.failed:
        say(f"error: {len(cells.failed)} pairs failed: {', '.join(cells.failed)}; run the same command to retry them")
    return int(bool(cells.failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
