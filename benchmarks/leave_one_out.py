"""False alarms of a detector that holds nothing out: leave-one-out calibration on real images, drawn anew each time.

    python benchmarks/leave_one_out.py --set mnist:3 cifar10:automobile pill --data DIR

Each repeat draws 99 normal images from all of a set, fits patchcore to them, and counts how many of 100 others it flags
at the lowest rate that 99 images guarantee, which is 1%. Repeats are cached, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from cells import code_digest, say
from promises import REPEATS, mean_rate
from tables import data_parser, parse, percent, print_table

from oddlens.config.detectors import PatchcoreSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import concatenate
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.io.atomic import write_bytes

CALIBRATION, TESTED = 99, 100  # images that each repeat learns, and others that it tests
SIDE, MEGABYTES = 64, 1.0  # of images and banks: smaller than by default, so that repeats are quick
SAVE_EVERY = 10  # repeats


def normal_images(source: str, data_dir: Path | None) -> Pixels:
    """All normal images (N, H, W, C) of a data set, for training and for testing, shrunk to `SIDE`."""
    name, _, normal = source.partition(":")
    folder = data_dir is not None and (data_dir / name / "train").is_dir()
    data = open_dataset(
        str(data_dir / name) if data_dir is not None and folder else name, normal=normal or None, data_dir=data_dir
    )
    good = concatenate([data.train, data.test.subset(data.test.labels == 0)])
    return good.load(data.train.choose_spec(SIDE))


def repeat(pixels: Pixels, number: int) -> tuple[float, float]:
    """The share of new images that one detector flags, and the rate that it guarantees."""
    order = np.random.default_rng(number).permutation(len(pixels))
    detector = Detector(PatchcoreSettings(side=SIDE, bank_megabytes=MEGABYTES))
    detector.fit(pixels[order[:CALIBRATION]], calibration="leave_one_out", count_by="image")
    scores = detector.score(pixels[order[CALIBRATION : CALIBRATION + TESTED]])
    rate = detector.decisions_.false_alarm_rate
    if rate is None:
        raise TypeError("a conformal decision always has a rate")
    return float((scores > detector.decision_.threshold).mean()), rate


def repeats(source: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """All repeats of a set; those that are missing are computed first."""
    path = options.cache / f"leave-one-out-{source.replace(':', '-')}-{code_digest()}.json"
    results = [(flagged, rate) for flagged, rate in json.loads(path.read_text())] if path.exists() else []
    if len(results) < options.repeats:
        pixels = normal_images(source, options.data)
        for number in range(len(results), options.repeats):
            results.append(repeat(pixels, number))
            if (number + 1) % SAVE_EVERY == 0 or number + 1 == options.repeats:
                say(f"{source}: {number + 1} of {options.repeats} repeats")
                write_bytes(path, json.dumps(results).encode())
    return results[: options.repeats]


def row(source: str, options: argparse.Namespace) -> list[str]:
    """The row of a set."""
    flagged, rates = zip(*repeats(source, options), strict=True)
    return [source, percent(max(rates)), str(mean_rate(list(flagged)))]


def main(words: list[str]) -> int:
    """Print the table."""
    parser = data_parser(__doc__)
    parser.add_argument("--set", nargs="+", required=True, metavar="SET[:NORMAL]")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parse(parser, words)
    columns = ("normal images", "guaranteed", "flagged (95% interval)")
    rows = (row(source, options) for source in options.set)
    return print_table(columns, rows, [__file__, *words], f"; {options.repeats} repeats")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
