"""Development sets for choosing settings, built from training images only.

    python benchmarks/development.py cifar10 dog --data DIR -o dog.npz
    oddlens compare dog.npz --normal 5 --detectors dictionary,rotation,auto

Most training images of the normal class are for training. The rest, with training images of the other classes as
anomalies, is the test split. For magnetic tiles, `magnetic-tile-dev` is such a test split:

    oddlens fit DIR/magnetic-tile -o mt.safetensors && oddlens eval mt.safetensors DIR/magnetic-tile-dev
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.errors import OddlensError
from oddlens.io.atomic import write_bytes

TRAINING_SHARE = 0.8  # share of the normal class that is for training
PER_CLASS = 150  # anomalies per class


def development(train: ImageSet, normal: str, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Split training images into the arrays x_train, y_train, x_test, y_test; classes become numbers."""
    rng = np.random.default_rng(seed)
    kinds = np.array(train.kinds)
    classes = sorted(set(train.kinds))
    order = {kind: rng.permutation(np.flatnonzero(kinds == kind)) for kind in classes}
    cut = int(TRAINING_SHARE * len(order[normal]))
    shown = [order[normal][cut:], *(order[kind][:PER_CLASS] for kind in classes if kind != normal)]
    parts = {"train": order[normal][:cut], "test": np.concatenate(shown)}
    pixels, numbers = train.load(train.choose_spec(None)), np.searchsorted(classes, kinds)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part, index in parts.items():
        arrays |= {f"x_{part}": pixels[index], f"y_{part}": numbers[index]}
    return arrays


def main(words: list[str]) -> int:
    """Write the set and print the number of the normal class in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="name of a data set")
    parser.add_argument("normal", help="the class that is normal")
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args(words)
    try:
        train = open_dataset(options.source, data_dir=options.data).train
        if options.normal not in train.kinds:
            classes = ", ".join(sorted(set(train.kinds)))
            parser.error(f"{options.source} has no class {options.normal}; choose one of {classes}")
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **development(train, options.normal, options.seed))
        write_bytes(options.out, file.getvalue())
    except OddlensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    number = sorted(set(train.kinds)).index(options.normal)
    print(f"{options.out}: {options.normal} is class {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
