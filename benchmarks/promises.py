"""Validity of the statistical guarantees on real images: false alarms, false discoveries, drift.

    python benchmarks/promises.py --show alarms --set mnist cifar10:automobile --data DIR
    python benchmarks/promises.py --show alarms --set magnetic-tile --parts magnetic-tile-split.csv --data DIR
    python benchmarks/promises.py --show discoveries --set mnist --data DIR
    python benchmarks/promises.py --show drift --set mnist cifar10:automobile --data DIR

Each detector is fitted once. Calibration and test images are then drawn repeatedly from images outside its training
set, which makes them exchangeable: this validates ranks, ties and thresholds. Whether a set's own test images resemble
its training images is another question; the column "test images, once" answers it for one calibration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pools import FAMILIES, Pool, Scores, load_pool
from tables import DASH, data_parser, parse, percent, print_table

from oddlens import metrics
from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.drift import DriftWatch
from oddlens.errors import CalibrationError

REPEATS = 200
CALIBRATION, STREAM = 499, 2000
DELTA, WITHIN = 0.01, 300
SHARES, RATES = (0.01, 0.05, 0.2), (0.01, 0.05)
BATCH = 1000  # images per batch, for discoveries

Rng = np.random.Generator


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


def drift(pool: Pool, seed: int) -> list[list[str]]:
    """Return the rate of alarms in unchanged streams, and per change the rate and delay of alarms after it."""
    rng = np.random.default_rng(seed)
    quiet = [alarm(pool.normal, None, rng, number) is not None for number in range(REPEATS)]
    rows = [["none", percent(float(np.mean(quiet))), DASH, DASH]]
    for kind, scores in pool.changed.items():
        delays = [alarm(pool.normal, scores, rng, number) for number in range(REPEATS)]
        soon = [delay is not None and 0 <= delay < WITHIN for delay in delays]
        usual = [delay for delay in delays if delay is not None and delay >= 0]
        rows.append([kind, DASH, percent(float(np.mean(soon))), f"{np.median(usual):.0f}" if usual else DASH])
    return rows


def alarm(normal: Scores, changed: Scores | None, rng: Rng, number: int) -> int | None:
    """Return the number of images from the change, or without one from the start, to the alarm; None without alarm."""
    order = rng.permutation(len(normal))
    watch = DriftWatch(normal[order[:CALIBRATION]], DELTA, seed=number)
    stream = order[CALIBRATION : CALIBRATION + STREAM]
    start = 0 if changed is None else int(rng.integers(0, len(stream) - WITHIN))
    scores = normal[stream]
    if changed is not None:
        scores = np.concatenate([scores[:start], changed[stream[start : start + WITHIN]]])
    watch.update([""] * len(scores), scores)
    return None if watch.alarm is None else watch.alarm - start


TABLES: dict[str, tuple[Callable[[Pool, int], list[list[str]]], tuple[str, ...]]] = {
    "alarms": (
        false_alarms,
        ("requested", "flagged, counted by image", "by group", "test images, once", "training percentile"),
    ),
    "discoveries": (discoveries, ("anomalies", "requested", "false among the flagged", "anomalies found")),
    "drift": (drift, ("change", "alarms in unchanged streams", f"alarm within {WITHIN} images", "median delay")),
}


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of each set and family, whose pool is computed first where it is missing."""
    table, _ = TABLES[options.show]
    for source in options.set:
        name, _, normal = source.partition(":")
        for family in options.families:
            pool = load_pool(
                options.cache, options.data, name, normal or None, family, options.seed, options.budget, options.parts,
                changes=options.show == "drift",
            )  # fmt: skip
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
