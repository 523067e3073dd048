"""Recall of `oddlens check` on data with known faults: leaking splits and contaminated training images.

    python benchmarks/doctoring.py --show leaks --groups magnetic-tile-split.csv --data DIR
    python benchmarks/doctoring.py --show contamination --data DIR

Leaks: the normal magnetic tiles are split at random, so that photographs of one tile are on both sides; the CSV file
tells which photographs show one tile. Contamination: 3% of another class is mixed into CIFAR-10's automobiles.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from cells import ROOT, say
from code_digest import code_digest
from pools import parts_of_files
from tables import markdown, percent, typed_command

from oddlens.config.parse import duration
from oddlens.data.image_set import DataSet, ImageSet, concatenate
from oddlens.data.open import open_dataset
from oddlens.evaluation import data_checks
from oddlens.io.atomic import write_bytes

TRAINING_SHARE = 0.75  # share of the normal tiles on the training side
NORMAL, FOREIGN = "automobile", 0.03
SEEDS = (0, 1, 2)


def leaks(options: argparse.Namespace) -> str:
    """Return the table of leaks found, a row per random split."""
    part_of = parts_of_files(options.groups)
    folders = [options.data / name for name in ("magnetic-tile", "magnetic-tile-dev")]
    files = sorted(path for folder in folders for part in ("train", "test") for path in (folder / part).rglob("*.jpg"))
    tile = np.array([part_of[path.name] for path in files])
    good = np.array([path.parent.name == "good" for path in files])
    rows = []
    for seed in SEEDS:
        train = good & (np.random.default_rng(seed).random(len(files)) < TRAINING_SHARE)
        train_images, test_images = (
            ImageSet.from_files([files[i] for i in np.flatnonzero(part)]) for part in (train, ~train)
        )
        report = data_checks.check(DataSet("random", train_images, test_images, "good"))
        (leaked,) = [set(finding.files) for finding in report.findings if finding.name == "leak"]
        flagged = np.array([str(path) in leaked for path in files])
        shared = ~train & np.isin(tile, tile[train])
        rows.append([
            str(seed), str(int(train.sum())), f"{int(flagged[shared].sum())} of {int(shared.sum())}",
            percent(float(flagged[shared].mean())),
            f"{int(flagged[~train & ~shared].sum())} of {int((~train & ~shared).sum())}",
            percent(float(flagged[~train & ~shared].mean())),
        ])  # fmt: skip
    columns = ("seed", "training images", "photographs of trained tiles, named", "", "others, named", "")
    return markdown(columns, rows)


def contamination(options: argparse.Namespace) -> str:
    """Return the table of contaminations, a row per foreign class; the results are cached."""
    train = open_dataset("cifar10", data_dir=options.data).train
    kinds = np.array(train.kinds)
    rows, shares = [], []
    for foreign in sorted(set(train.kinds) - {NORMAL}):
        path = options.cache / f"contamination-{NORMAL}-{foreign}-{options.budget}-s{options.seed}-{code_digest()}.json"
        if not path.exists():
            result = json.dumps(contaminated(train, kinds, foreign, options)).encode()
            write_bytes(path, result)
        cell = json.loads(path.read_text())
        shares.append(cell["listed"] / cell["foreign"])
        say(f"{foreign}: {shares[-1]:.3f}")
        rows.append([foreign, f"{cell['listed']} of {cell['foreign']}", percent(shares[-1]), f"{cell['seconds']:.0f}"])
    rows.append(["**mean**", "", percent(float(np.mean(shares))), ""])
    return markdown(("3% among automobiles", "listed", "", "seconds of `check`"), rows)


def contaminated(train: ImageSet, kinds: np.ndarray, foreign: str, options: argparse.Namespace) -> dict[str, float]:
    """Mix foreign images into the training images and count those listed as unusual."""
    normal = np.flatnonzero(kinds == NORMAL)
    others = np.random.default_rng(options.seed).permutation(np.flatnonzero(kinds == foreign))
    others = others[: round(FOREIGN * len(normal))]
    mixed = concatenate([train.subset(normal), train.subset(others)])
    started = time.perf_counter()
    data = DataSet("mixed", mixed, train.subset([]), NORMAL)
    facts = data_checks.check(data, budget=duration(options.budget), seed=options.seed).facts
    listed = {row["file"] for row in facts["unusual"]} & {train.names[i] for i in others}
    return {"listed": len(listed), "foreign": len(others), "seconds": time.perf_counter() - started}


def main(words: list[str]) -> int:
    """Print a table."""
    tables = {"leaks": leaks, "contamination": contamination}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", choices=sorted(tables), required=True)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    parser.add_argument("--groups", type=Path, help="CSV file that tells which photographs show one tile")
    parser.add_argument("--budget", default="2m", help="time budget for the search of unusual images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks")
    options = parser.parse_args(words)
    if options.data is None or (options.show == "leaks" and options.groups is None):
        parser.error("--data is required, and --groups with --show leaks")
    options.data = Path(options.data).resolve()
    print(tables[options.show](options))
    print(f"\nTable: `{typed_command([__file__, *words])}`.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
