"""Validity of the statistical guarantees on real images: false alarms and false discoveries.

    python benchmarks/promises.py --show alarms --set mnist cifar10:automobile --data DIR
    python benchmarks/promises.py --show alarms --set magnetic-tile --parts magnetic-tile-split.csv --data DIR
    python benchmarks/promises.py --show discoveries --set mnist --data DIR

Each detector is fitted once, on half of a set's normal training images. Calibration and test images are then drawn
repeatedly from its pool, the other half and the normal test images, which makes them exchangeable: this validates
ranks, ties and thresholds. Whether a set's own test images resemble its training images is another question; the column
"test images, once" answers it for one calibration.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from cells import cached_json, code_digest
from tables import DASH, data_parser, parse, percent, print_table

from oddlens import metrics
from oddlens.config.base import DecisionSettings
from oddlens.config.parse import duration
from oddlens.conformal.decision import Decision
from oddlens.data.groups import read_groups
from oddlens.data.image_set import ImageSet, concatenate
from oddlens.data.open import open_dataset
from oddlens.data.splitting import split_groups
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError
from oddlens.evaluation import corruptions

FAMILIES = ("auto", "padim", "patchcore", "features", "dictionary", "rotation", "defects", "autoencoder")
MAX_IMAGES = 3000  # images in a pool
REPEATS = 200
SHARES, RATES = (0.01, 0.05, 0.2), (0.01, 0.05)
BATCH = 1000  # images per batch, for discoveries

Scores = npt.NDArray[np.float64]


class MeanRate(NamedTuple):
    """Mean of a rate over repeats, with its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2%} ({self.low:.2%} to {self.high:.2%})"


def mean_rate(values: list[float]) -> MeanRate:
    """Return the mean of the repeats with its interval."""
    mean, error = float(np.mean(values)), 1.96 * float(np.std(values)) / len(values) ** 0.5
    return MeanRate(mean, mean - error, mean + error)


# -- pools ----------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """Scores of one detector on unseen images."""

    training: Scores  # of its training images; empty where a detector has none
    normal: Scores  # (N,) of normal images outside the training set
    groups: npt.NDArray[np.intp]  # (N,) equal numbers for images of one part
    tested: npt.NDArray[np.bool_]  # (N,) true for images of the test split
    anomalous: Scores  # of distorted images; empty if none were distorted


def load_pool(source: str, family: str, options: argparse.Namespace) -> Pool:
    """Return the pool of a data set and a family from the cache, computed first if missing."""
    parts = options.parts.read_text() if options.parts else ""
    digest = hashlib.blake2b(f"{source} {parts}".encode(), digest_size=4).hexdigest()
    name = f"pool-{options.show}-{source.replace(':', '-')}-{family}-{options.budget}-s{options.seed}"
    path = options.cache / f"{name}-{digest}-{code_digest()}.json"
    return Pool(*map(np.array, cached_json(path, partial(compute_pool, source, family, options))))


def compute_pool(source: str, family: str, options: argparse.Namespace) -> list[list[float]]:
    """Fit on half of the normal training images and score the others. Images of one part stay on one side."""
    name, _, normal = source.partition(":")
    is_folder = options.data is not None and (options.data / name / "train").is_dir()
    place = str(options.data / name) if is_folder else name
    # Only images from folders have the file names of a table.
    part_of = parts_of_files(options.parts) if options.parts and is_folder else None
    data = open_dataset(place, normal=normal or None, data_dir=options.data)
    spec = data.train.choose_spec(None)
    train = data.train.load(spec)
    halves = [len(train) - len(train) // 2, len(train) // 2]
    learned, others = split_groups(groups_of(data.train, part_of), halves, options.seed)
    detector = Detector(family, budget=duration(options.budget), size=max(spec.height, spec.width))
    detector.fit(train[learned], hold_out=False)
    both = concatenate([data.train.subset(others), data.test.subset(data.test.labels == 0)])
    index = np.sort(np.random.default_rng(options.seed).permutation(len(both))[:MAX_IMAGES])
    both = both.subset(index)
    pixels = both.load(spec)
    scores, anomalous = detector.score(pixels), np.empty(0)
    if options.show == "discoveries":
        kinds = corruptions.DISTORTIONS
        distorted = [
            corruptions.distort(kind, pixels[number :: len(kinds)], spec.value_max, options.seed)
            for number, kind in enumerate(kinds)
        ]
        anomalous = detector.score(np.concatenate(distorted))
    training = detector.tensors.get("training.scores", np.empty(0))
    arrays = (training, scores, groups_of(both, part_of), index >= len(others), anomalous)
    return [np.asarray(array).tolist() for array in arrays]


def parts_of_files(table: Path) -> dict[str, str]:
    """Map file names to parts. Folders are dropped, because here they differ from those in the CSV file."""
    return {Path(name).name: part for name, part in read_groups(table, "group").items()}


def groups_of(images: ImageSet, part_of: dict[str, str] | None) -> npt.NDArray[np.intp]:
    """Return (N,) group numbers, equal for images of one part; without parts, every image is a part of its own."""
    if part_of is None:
        return np.arange(len(images))
    return np.unique([part_of[Path(name).name] for name in images.names], return_inverse=True)[1]


# -- tables ---------------------------------------------------------------------------------------


def false_alarms(pool: Pool, seed: int) -> list[list[str]]:
    """Return a row per requested rate: the realized rates by image, by group, on test images, and by percentile."""
    rows = []
    for rate in RATES:
        by_image, by_part = (redrawn_rates(pool, rate, seed, by_group=by_group) for by_group in (False, True))
        grouped = len(np.unique(pool.groups)) < len(pool.groups)
        percentile = percent(train_percentile_rate(pool, rate)) if len(pool.training) else DASH
        grouped_rate = format_rates(by_part) if grouped else DASH
        rates = format_rates(by_image), grouped_rate, on_test_images(pool, rate), percentile
        rows.append([percent(rate), *rates])
    return rows


def on_test_images(pool: Pool, rate: float) -> str:
    """Return the rate on the set's test images for one calibration on training images, without redrawing."""
    try:
        threshold = conformal_decision(pool.normal[~pool.tested], rate).threshold
    except CalibrationError:
        return "too few"
    flagged, count = int((pool.normal[pool.tested] > threshold).sum()), int(pool.tested.sum())
    low, high = metrics.rate_interval(flagged, count)
    return f"{flagged / count:.2%} ({low:.2%} to {high:.2%})"


def format_rates(values: list[float] | None) -> str:
    """Format realized rates."""
    return "too few" if values is None else str(mean_rate(values))


def train_percentile_rate(pool: Pool, rate: float) -> float:
    """Return the share of unseen normal images above the percentile of the training scores."""
    percentile = float(np.percentile(pool.training, 100 * (1 - rate)))
    return float((pool.normal > percentile).mean())


def redrawn_rates(pool: Pool, rate: float, seed: int, *, by_group: bool) -> list[float] | None:
    """Return the realized rate of each repeat. Whole groups are drawn; by group, each counts by its highest score.

    Returns None where the calibration sets are too small for the rate.
    """
    rng, units = np.random.default_rng(seed), pool.groups
    names, unit = np.unique(units, return_inverse=True)
    highest = np.full(len(names), -np.inf)
    np.maximum.at(highest, unit, pool.normal)
    rates = []
    for _ in range(REPEATS):
        calibrating = np.zeros(len(names), dtype=bool)
        calibrating[rng.permutation(len(names))[: len(names) // 2]] = True
        inside = calibrating[unit]
        calibration = highest[calibrating] if by_group else pool.normal[inside]
        test = highest[~calibrating] if by_group else pool.normal[~inside]
        try:
            rates.append(float((test > conformal_decision(calibration, rate).threshold).mean()))
        except CalibrationError:
            return None
    return rates


def conformal_decision(calibration: Scores, rate: float) -> Decision:
    """Return a conformal decision."""
    return Decision(DecisionSettings(false_alarm_rate=rate), calibration, np.empty(0))


def discoveries(pool: Pool, seed: int) -> list[list[str]]:
    """Return a row per share of anomalies and requested rate: the false discovery rate and the detection rate."""
    rows, rng = [], np.random.default_rng(seed)
    for share in SHARES:
        for rate in (0.05, 0.1):
            false, power = [], []
            for _ in range(REPEATS):
                order = rng.permutation(len(pool.normal))
                anomalous = rng.permutation(pool.anomalous)[: round(share * BATCH)]
                scores = np.concatenate([pool.normal[order[: BATCH - len(anomalous)]], anomalous])
                decision = conformal_decision(pool.normal[order[BATCH:]], 0.05)
                flagged = scores > decision.discovery_threshold(scores, rate)
                false.append(flagged[: BATCH - len(anomalous)].sum() / max(1, flagged.sum()))
                power.append(float(flagged[BATCH - len(anomalous) :].mean()))
            rows.append([percent(share), percent(rate), str(mean_rate(false)), str(mean_rate(power))])
    return rows


TABLES: dict[str, tuple[Callable[[Pool, int], list[list[str]]], tuple[str, ...]]] = {
    "alarms": (
        false_alarms,
        ("requested", "flagged, counted by image", "by group", "test images, once", "training percentile"),
    ),
    "discoveries": (discoveries, ("anomalies", "requested", "false among the flagged", "anomalies found")),
}


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of each set and family, whose pool is computed first where it is missing."""
    table, _ = TABLES[options.show]
    for source in options.set:
        for family in options.families:
            pool = load_pool(source, family, options)
            yield from ([source, family, *row] for row in table(pool, options.seed))


def main(words: list[str]) -> int:
    """Compute what is missing and print the table."""
    parser = data_parser(__doc__)
    parser.add_argument("--show", choices=sorted(TABLES), required=True)
    parser.add_argument("--set", nargs="+", required=True, metavar="SET[:NORMAL]")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--budget", default="2m", help="time budget of a fit")
    parser.add_argument("--parts", type=Path, help="CSV file that tells which photographs show one tile")
    parser.add_argument("--seed", type=int, default=0)
    options = parse(parser, words)
    columns = ("set", "detector", *TABLES[options.show][1])
    return print_table(columns, rows(options), [__file__, *words], f"; {REPEATS} repeats")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
