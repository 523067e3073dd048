"""Peers side by side with oddlens: one table, from runs that take turns (ours, theirs, ours, theirs, ...).

    python benchmarks/peers/run.py --peer keras-mnist torch-mnist torch-cifar --repeats 5 --data DIR
    python benchmarks/peers/run.py --peer pyod-autoencoder pyod-deepsvdd --repeats 3 --data DIR
    python benchmarks/peers/run.py --peer ganomaly-tile ganomaly-airplane --repeats 1 --data DIR

Each peer has an environment of its own, made from `requirements/` when it is not there, and is run as its documentation
says. A pair of runs is kept as a cell (see `cells.py`), so that a killed run goes on where it was; pair number n has
seed n on both sides. What follows `--` goes to the peers' scripts: `--epochs 1 -- --images 200` tries whether all runs.
Where a machine's speed changes within minutes, many short pairs tell more than few long ones: `--epochs 2 --as-if 10`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import PROGRAMS, ROOT, Cell, Cells, Job, say
from environments import VENVS, environment
from tables import DASH, commits, markdown

from oddlens.errors import OddlensError

INSTALLED = {  # environment -> what is imported before one can begin
    "oddlens-core": "from oddlens import Detector",
    "oddlens-train": "import oddlens.training.loop",
    "keras": "import tensorflow, keras",
    "torch": "import torch",
    "pyod": "from pyod.models.auto_encoder import AutoEncoder",
    "anomalib": "from anomalib.models import Ganomaly",
}


@dataclass(frozen=True)
class Peer:
    """What others wrote, or would write, and the commands of ours that do the same."""

    what: str
    venv: str
    theirs: str
    ours: tuple[str, ...]
    quality: str = "auroc"  # or "loss"


def recipe(name: str) -> tuple[str, ...]:
    """A recipe, and what its detector file says of the training."""
    return (
        f"oddlens run {name} --device cpu --data $DATA --out $OUT/ours",
        "oddlens show $OUT/ours/detector.safetensors",
    )


def auto(data: str, budget: str) -> tuple[str, ...]:
    """What a user would do: fit, and evaluate on the test images."""
    part = "$OUT/part.safetensors"
    return f"oddlens fit {data} --detector auto --budget {budget} --device cpu -o {part}", f"oddlens eval {part} {data}"


def anomalib(model: str, source: str) -> str:
    """Train and export, into a folder that `scoring_speed.py` finds."""
    out = f"runs/peers/models/{model}-{source}"
    return f"anomalib benchmarks/peers/anomalib_peer.py fit {source} --model {model} --out {out}"


AIRPLANE, TILE = "cifar10 --normal airplane --data $DATA", "$DATA/magnetic-tile"
PEERS = {
    "keras-mnist": Peer(
        "MNIST seed, plain Keras", "keras", "keras benchmarks/peers/plain_keras_mnist.py", recipe("mnist"), "loss"
    ),
    "torch-mnist": Peer(
        "MNIST seed, plain PyTorch", "torch", "torch benchmarks/peers/plain_pytorch_mnist.py", recipe("mnist"), "loss"
    ),
    "torch-cifar": Peer(
        "CIFAR-10 seed, plain PyTorch", "torch", "torch benchmarks/peers/plain_pytorch_cifar.py",
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
        "airplane, anomalib GANomaly", "anomalib", anomalib("ganomaly", "cifar10-airplane"), auto(AIRPLANE, "60s")
    ),
    "ganomaly-tile": Peer(
        "magnetic tile, anomalib GANomaly", "anomalib", anomalib("ganomaly", "magnetic-tile"), auto(TILE, "5m")
    ),
    "draem-tile": Peer(
        "magnetic tile, anomalib DRAEM", "anomalib", anomalib("draem", "magnetic-tile"), auto(TILE, "5m")
    ),
}  # fmt: skip


def pair(name: str, number: int, options: argparse.Namespace) -> Job:
    """One run of ours and then one of theirs."""
    peer, epochs = PEERS[name], f" --epochs {options.epochs}" if options.epochs else ""
    every = f" --seed {number} --threads {options.threads}"
    ours = [line + (epochs if line.startswith("oddlens run") else "") + every + " --json" for line in peer.ours]
    theirs = f"{peer.theirs} --data $DATA{epochs}{every} {' '.join(options.extra)}".rstrip()
    return Job(f"peer-{name}-{number}", (*ours, theirs))


def installed(name: str) -> Job:
    """What an environment weighs."""
    return Job(f"installed-{name}", (f"{name} benchmarks/peers/installed.py '{INSTALLED[name]}'",))


def quality(result: dict[str, Any], which: str) -> float | None:
    """Loss or AUROC as any of the commands gives it."""
    if which == "loss":
        value = result.get("loss", result.get("history", {}).get("last_loss"))
    else:
        value = result.get("auroc", result.get("image_auroc"))
    return None if value is None else float(value)


def qualities(made: list[Cell], which: str, *, ours: bool) -> str:
    """The mean over pairs, and the standard deviation where there are several."""
    found = []
    for cell in made:
        results = cell.results[:-1] if ours else cell.results[-1:]
        found += [value for result in results if (value := quality(result, which)) is not None]
    if not found:
        return DASH
    digits = 4 if which == "loss" else 3
    spread = f" ± {statistics.stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.{digits}f}{spread}"


def seconds(cell: Cell, *, ours: bool, as_if: int | None) -> float:
    """Seconds of fitting and, where a script decides by a threshold, of that: `seconds.fit` of ours has both.

    As if so many epochs had been made, each as long as those of the cell on average.
    """
    if ours:
        total, history = cell.fit_seconds, cell.results[-2].get("history", {})
        count, epochs = history.get("epochs"), history.get("seconds")
    else:
        result, each = cell.result, cell.result.get("seconds_epochs", [])
        total, count, epochs = result["seconds_fit"] + result.get("seconds_threshold", 0.0), len(each), sum(each)
    if as_if is None:
        return float(total)
    if not count:
        raise OddlensError("without --as-if: not both sides say how long their epochs took")
    return float(total + (as_if - count) * epochs / count)


def weight(cell: Cell | None) -> list[str]:
    """Megabytes, packages, seconds to import."""
    if cell is None:
        return [DASH] * 3
    result = cell.result
    return [f"{result['megabytes']:,.0f}", str(result["packages"]), f"{result['seconds_import']:.2f}"]


def row(peer: Peer, made: list[Cell], install: Cell | None, as_if: int | None) -> list[str]:
    """A peer beside ours."""
    if not made:
        return [peer.what, *[DASH] * 6, *weight(install)]
    theirs, ours = ([seconds(cell, ours=who, as_if=as_if) for cell in made] for who in (False, True))
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    mark = "".join(dict.fromkeys(cell.mark for cell in made))
    return [
        peer.what, str(len(made)), f"{statistics.median(theirs):.1f}", f"{statistics.median(ours):.1f}{mark}",
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{peer.quality} {qualities(made, peer.quality, ours=False)}", qualities(made, peer.quality, ours=True),
        *weight(install),
    ]  # fmt: skip


COLUMNS = (
    "fit", "pairs", "theirs, s", "ours, s", "theirs / ours: median (min to max)", "theirs", "ours", "MB installed",
    "packages", "import, s",
)  # fmt: skip
TOLD = (
    "seconds_load",
    "seconds_threshold",
    "epochs",
    "auroc_own",
    "operations_per_image",
    "images_per_second",
    "precision",
    "versions",
)


def notes(name: str, made: list[Cell]) -> list[str]:
    """The commands of a row, and what else the peer's script said."""
    if not made:
        return []
    said = {key: made[0].result[key] for key in TOLD if key in made[0].result}
    return [f"**{PEERS[name].what}**: {said}".replace("'", ""), "", "```sh", *made[0].commands, "```", ""]


def table(cells: Cells, options: argparse.Namespace) -> str:
    """The table, and below it what made it. The pairs of different peers take turns too."""
    made: dict[str, list[Cell]] = {name: [] for name in options.peer}
    for number in range(options.repeats):
        for name in options.peer:
            cell = cells.need(pair(name, number, options))
            made[name] += [cell] if cell else []
    venvs = {name: cells.need(installed(name)) for name in environments(options)}
    rows = [row(PEERS[name], made[name], venvs[PEERS[name].venv], options.as_if) for name in options.peer]
    rows += [[name, *[DASH] * 6, *weight(venvs[name])] for name in ("oddlens-core", "oddlens-train")]
    used = list(cells.used.values())
    lines = [markdown(COLUMNS, rows), "", *(line for name in options.peer for line in notes(name, made[name]))]
    for machine in dict.fromkeys(cell.machine for cell in used):
        loads = [cell.load for cell in used if cell.machine == machine]
        lines.append(f"Machine: {machine}; load before the pairs {min(loads):.1f} to {max(loads):.1f}.")
    if used:
        lines.append(f"Commits {commits(used)}; † marks what older code made, and --fresh makes it anew.")
    return "\n".join(lines)


def environments(options: argparse.Namespace) -> list[str]:
    """Those that the table speaks of."""
    return list(dict.fromkeys([*(PEERS[name].venv for name in options.peer), "oddlens-core", "oddlens-train"]))


def main(words: list[str]) -> int:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--epochs", type=int, help="of both, instead of the recipe's: shorter turns, or to try only")
    parser.add_argument("--as-if", type=int, help="with --epochs: give the seconds as if so many epochs were made")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="folder of the peers' environments")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks", help="folder of the cells")
    parser.add_argument("--fresh", action="store_true", help="make the pairs anew")
    parser.add_argument("--print", action="store_true", dest="printing", help="the table of what is there; run nothing")
    parser.add_argument("extra", nargs="*", help="after --: further options of the peers' scripts")
    options = parser.parse_args(words)
    data = None if options.data is None else Path(options.data).resolve()
    try:
        for name in [] if options.printing else environments(options):
            PROGRAMS[name] = (str(environment(options.venvs, name)),)
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    cells = Cells(options.cache, data, fresh=options.fresh, printing=options.printing)
    asked = f"--peer {' '.join(options.peer)} --repeats {options.repeats} --threads {options.threads} --data $DATA"
    asked += f" --epochs {options.epochs}" * bool(options.epochs) + f" --as-if {options.as_if}" * bool(options.as_if)
    asked += f" -- {' '.join(options.extra)}" * bool(options.extra)
    try:
        print(table(cells, options), f"\n\nTable: `python benchmarks/peers/run.py {asked}`.")
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    if cells.failed:
        say(f"error: {len(cells.failed)} pairs failed: {', '.join(cells.failed)}; the same command tries them again")
    return int(bool(cells.failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
