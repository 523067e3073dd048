"""Whether the test of a lot is silent on unchanged lots, and speaks where a change of light makes false alarms.

    python benchmarks/lot_test.py --set bottle pill --data DIR

Each detector is fitted on all good images of a set but a random 60, several times. Lots of 50 are drawn from these 60,
unchanged or with another brightness, and tested; the results of each fit are cached. A lot counts as having lost its
guarantee where more of it is flagged than five times the guaranteed rate.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import NamedTuple

import numpy as np
from cells import cached_json, code_digest
from tables import DASH, data_parser, parse, percent, print_table

from oddlens.config.parse import duration
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import concatenate
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector

TESTED, LOT, LOTS = 60, 50, 20  # images outside of each fit, images in a lot, lots of each fit and brightness
BRIGHTNESS = (1.0, 0.85, 0.93, 1.07, 1.15)
EXCESS = 5  # times the guaranteed rate


class Result(NamedTuple):
    """One lot: the factor of its brightness, its share of false alarms, the guaranteed rate, and the verdict."""

    brightness: float
    alarms: float
    rate: float
    shifted: bool


def brightened(pixels: Pixels, factor: float, value_max: int) -> Pixels:
    """Return images (N, H, W, C) with all values multiplied by `factor`."""
    changed: Pixels = np.clip(np.rint(pixels * factor), 0, value_max).astype(pixels.dtype)
    return changed


def results_of_fit(source: str, detector: Detector, seed: int) -> list[Result]:
    """Fit on the good images of a data set but a random `TESTED`, and test lots of these."""
    data = open_dataset(source)
    good = concatenate([data.train, data.test.subset(data.test.labels == 0)])
    order = np.random.default_rng(seed).permutation(len(good))
    detector.fit(good.subset(np.sort(order[TESTED:])))
    pixels, results = good.subset(np.sort(order[:TESTED])).load(detector.spec), []
    for factor in BRIGHTNESS:
        results += lots(detector, brightened(pixels, factor, detector.spec.value_max), factor, seed)
    return results


def lots(detector: Detector, pixels: Pixels, factor: float, seed: int) -> list[Result]:
    """Draw lots of images from pixels (N, H, W, C), and test each."""
    rng, names, rate = np.random.default_rng(seed), [""] * LOT, detector.decisions_.false_alarm_rate
    scores, results = detector.score(pixels), list[Result]()
    for _ in range(LOTS):
        lot = rng.permutation(len(pixels))[:LOT]
        test = detector.test_lot(scores[lot], images=pixels[lot])
        alarms = float(detector.predict_from_scores(names, scores[lot]).label.mean())
        results.append(Result(factor, alarms, rate, test is not None and test.shifted))
    return results


def cached_results(name: str, options: argparse.Namespace) -> list[Result]:
    """Return the results of all fits of a data set, computed first where they are missing."""
    budget, results = None if options.budget is None else duration(options.budget), []
    for seed in range(options.fits):
        key = f"lots-{name}-{options.detector}-{options.budget or 'default'}-s{seed}-{code_digest()}.json"
        detector = Detector(options.detector, budget=budget)
        fit = partial(results_of_fit, str(options.data / name), detector, seed)
        results += [Result(*values) for values in cached_json(options.cache / key, fit)]
    return results


def table(name: str, results: list[Result]) -> list[list[str]]:
    """Return a row for each brightness, and one for all changed lots that lost their guarantee."""
    rows = [row(f"{name}, x{factor:g}", [r for r in results if r.brightness == factor]) for factor in BRIGHTNESS]
    lost = beyond([result for result in results if result.brightness != 1])
    return [*rows, row(f"**{name}, changed and beyond {EXCESS} x the promise**", lost)]


def beyond(results: list[Result]) -> list[Result]:
    """Return the lots that have more false alarms than `EXCESS` times the guaranteed rate."""
    return [result for result in results if result.alarms > EXCESS * result.rate]


def row(title: str, results: list[Result]) -> list[str]:
    """Return what some lots have in common: number, guaranteed and measured rates, and how many are reported."""
    if not results:
        return [title, "0", *[DASH] * 4]
    count, rate, alarms = len(results), np.mean([r.rate for r in results]), np.mean([r.alarms for r in results])
    lost = beyond(results)
    reported = f"{sum(r.shifted for r in lost)} of {len(lost)}" if lost else DASH
    share = percent(float(np.mean([r.shifted for r in results])))
    return [title, str(count), percent(float(rate)), percent(float(alarms)), share, reported]


def folder_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options of benchmarks on folders of images."""
    parser = data_parser(text)
    parser.add_argument("--set", nargs="+", default=["bottle", "pill"], help="folders of data sets below --data")
    return parser


def main(words: list[str]) -> int:
    """Print the table."""
    parser = folder_parser(__doc__)
    parser.add_argument("--detector", default="auto", help="family of detector (auto)")
    parser.add_argument("--budget", help="time for a fit, such as 60s or 5m; by default the detector's own")
    parser.add_argument("--fits", type=int, default=10, help="fits of each set (10)")
    options = parse(parser, words, needs_data=True)
    columns = ("lots of 50, brightness", "lots", "promised", "false alarms", "reported", f"beyond {EXCESS} x: reported")
    rows = (line for name in options.set for line in table(name, cached_results(name, options)))
    return print_table(columns, rows, [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
