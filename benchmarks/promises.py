"""Whether decisions keep their word on real images: false alarms, false discoveries, drift.

    python benchmarks/promises.py --show alarms --set mnist cifar10:automobile --data DIR
    python benchmarks/promises.py --show alarms --set magnetic-tile --parts magnetic-tile-split.csv --data DIR
    python benchmarks/promises.py --show discoveries --set mnist --data DIR
    python benchmarks/promises.py --show drift --set mnist cifar10:automobile --data DIR

Each detector is fitted once; calibration and test images are then redrawn from images that it has not seen. Redrawing
makes them exchangeable: what it shows is that ranks, ties and thresholds keep the promise. Whether a set's own test
images are like its training images is another question, which the column of test images answers, once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cells import ROOT, say
from pools import FAMILIES, Pool, Scores, pool
from promise_plots import Spread, draw
from tables import DASH, as_typed, markdown, percent

from oddlens import metrics
from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.drift import DriftWatch
from oddlens.errors import CalibrationError, OddlensError
from oddlens.reporting.figures import save_figure

REPEATS = 200
CALIBRATION, STREAM = 499, 2000
DELTA, WITHIN = 0.01, 300
SHARES, RATES = (0.01, 0.05, 0.2), (0.01, 0.05)
JUDGED = 1000  # images at once, for discoveries

Rng = np.random.Generator


class Realised(NamedTuple):
    """A rate over repeats: its mean, and the 95% interval of that mean."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2%} ({self.low:.2%} to {self.high:.2%})"


def realised(values: list[float]) -> Realised:
    """What repeats gave."""
    mean, error = float(np.mean(values)), 1.96 * float(np.std(values)) / len(values) ** 0.5
    return Realised(mean, mean - error, mean + error)


def alarms(known: Pool, seed: int) -> list[list[str]]:
    """A row an asked rate: what was really flagged, by image, by group, and the seeds' way."""
    rows = []
    for rate in RATES:
        by_image, by_group = (redrawn_rates(known, rate, seed, by_group=each) for each in (False, True))
        grouped = len(np.unique(known.groups)) < len(known.groups)
        percentile = seeds_rate(known, rate)
        by_part = shown(by_group) if grouped else DASH
        rows.append([percent(rate), shown(by_image), by_part, on_test_images(known, rate), percent(percentile)])
    return rows


def on_test_images(known: Pool, rate: float) -> str:
    """What is flagged of the set's own test images by a calibration on training images: once, and not redrawn."""
    try:
        threshold = decided(known.normal[~known.tested], rate).threshold
    except CalibrationError:
        return "too few"
    flagged, count = int((known.normal[known.tested] > threshold).sum()), int(known.tested.sum())
    low, high = metrics.rate_interval(flagged, count)
    return f"{flagged / count:.2%} ({low:.2%} to {high:.2%})"


def shown(values: list[float] | None) -> str:
    """Realised rates in words."""
    return "too few" if values is None else str(realised(values))


def seeds_rate(known: Pool, rate: float) -> float:
    """What the percentile of the training scores flags of all unseen normal images."""
    percentile = float(np.percentile(known.training, 100 * (1 - rate)))
    return float((known.normal > percentile).mean())


def redrawn_rates(known: Pool, rate: float, seed: int, *, by_group: bool) -> list[float] | None:
    """The realised rates over repeats; whole groups are drawn. By group, each counts once, by its highest score.

    None where the calibration sets are too small for the rate.
    """
    rng, units = np.random.default_rng(seed), known.groups
    names, unit = np.unique(units, return_inverse=True)
    highest = np.full(len(names), -np.inf)
    np.maximum.at(highest, unit, known.normal)
    found = []
    for _ in range(REPEATS):
        chosen = np.zeros(len(names), dtype=bool)
        chosen[rng.permutation(len(names))[: len(names) // 2]] = True
        inside = chosen[unit]
        calibration = highest[chosen] if by_group else known.normal[inside]
        test = highest[~chosen] if by_group else known.normal[~inside]
        try:
            found.append(float((test > decided(calibration, rate).threshold).mean()))
        except CalibrationError:
            return None
    return found


def decided(calibration: Scores, rate: float) -> Decision:
    """A conformal decision."""
    return Decision(DecisionSettings(false_alarm_rate=rate), calibration, np.empty(0))


def found_again(known: Pool, seed: int) -> list[list[str]]:
    """A row a share of anomalies and an asked rate: false discoveries among the flagged, and anomalies found."""
    rows, rng = [], np.random.default_rng(seed)
    for share in SHARES:
        for rate in (0.05, 0.1):
            false, power = [], []
            for _ in range(REPEATS):
                order = rng.permutation(len(known.normal))
                odd = rng.permutation(known.odd)[: round(share * JUDGED)]
                scores = np.concatenate([known.normal[order[: JUDGED - len(odd)]], odd])
                decision = decided(known.normal[order[JUDGED:]], 0.05)
                flagged = scores > decision.discovery_threshold(scores, rate)
                false.append(flagged[: JUDGED - len(odd)].sum() / max(1, flagged.sum()))
                power.append(float(flagged[JUDGED - len(odd) :].mean()))
            rows.append([percent(share), percent(rate), str(realised(false)), str(realised(power))])
    return rows


def watched(known: Pool, seed: int) -> list[list[str]]:
    """Rows: alarms in unchanged streams, and within `WITHIN` images of a change, for each change."""
    rng = np.random.default_rng(seed)
    quiet = [alarm(known.normal, None, rng, number) is not None for number in range(REPEATS)]
    rows = [["none", percent(float(np.mean(quiet))), DASH, DASH]]
    for kind, scores in known.changed.items():
        delays = [alarm(known.normal, scores, rng, number) for number in range(REPEATS)]
        soon = [delay is not None and 0 <= delay < WITHIN for delay in delays]
        usual = [delay for delay in delays if delay is not None and delay >= 0]
        rows.append([kind, DASH, percent(float(np.mean(soon))), f"{np.median(usual):.0f}" if usual else DASH])
    return rows


def alarm(normal: Scores, changed: Scores | None, rng: Rng, number: int) -> int | None:
    """Images after the change (negative: before it) until the alarm; without a change, until any alarm."""
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
        alarms,
        ("asked", "flagged, counted by image", "by group", "test images, once", "the seeds' percentile"),
    ),
    "discoveries": (found_again, ("anomalies", "asked", "false among the flagged", "anomalies found")),
    "drift": (watched, ("change", "alarms in unchanged streams", f"alarm within {WITHIN} images", "median delay")),
}


def main(words: list[str]) -> int:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", choices=sorted(TABLES), required=True)
    parser.add_argument("--set", nargs="+", required=True, metavar="SET[:NORMAL]")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--budget", default="2m", help="of fitting")
    parser.add_argument("--parts", type=Path, help="CSV file that says which photographs are of one tile")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw the alarms too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"))
    parser.add_argument("--cache", type=Path, default=ROOT / "runs/benchmarks")
    options = parser.parse_args(words)
    data = None if options.data is None else Path(options.data).resolve()
    make, columns = TABLES[options.show]
    rows, spreads = [], []
    for given in options.set:
        name, _, normal = given.partition(":")
        for family in options.families:
            try:
                known = pool(
                    options.cache, data, name, normal or None, family, options.seed, options.budget, options.parts,
                    changes=options.show == "drift",
                )  # fmt: skip
            except OddlensError as error:
                say(f"error: {given}, {family}: {error}")
                return 1
            rows += [[given, family, *row] for row in make(known, options.seed)]
            for rate in RATES if options.plot else ():
                values = redrawn_rates(known, rate, options.seed, by_group=False)
                spreads.append(Spread(f"{given}, {family}", rate, values or [], seeds_rate(known, rate)))
    print(markdown(["set", "detector", *columns], rows))
    print(f"\nTable: `{as_typed([__file__, *words])}`; {REPEATS} repeats.")
    if options.plot:
        say(f"{save_figure(draw(spreads), options.plot)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
