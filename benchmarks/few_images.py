"""What the default detector does with few normal images: AUROC, what it guarantees, and what it catches then.

    python benchmarks/few_images.py --set bottle --data DIR

Each draw fits `auto` to some of the normal training images and tests all test images. Results are cached.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import numpy as np
from cells import cached_json, code_digest
from lot_test import folder_parser
from tables import DASH, parse, percent, print_table

from oddlens import metrics
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector

COUNTS, DRAWS = (10, 20, 50), 3


def results_of_draw(source: str, count: int, draw: int) -> dict[str, float | None]:
    """AUROC, guaranteed rate, share caught and share of false alarms of one draw; None where nothing is guaranteed."""
    data = open_dataset(source)
    chosen = np.sort(np.random.default_rng(draw).permutation(len(data.train))[:count])
    detector = Detector().fit(data.train.subset(chosen))
    scores, anomalous = detector.score(data.test), data.test.labels == 1
    flagged = scores > detector.decision_.threshold
    return {
        "auroc": metrics.auroc(anomalous.astype(int), scores),
        "rate": detector.decisions_.false_alarm_rate,
        "caught": float(flagged[anomalous].mean()),
        "alarms": float(flagged[~anomalous].mean()),
    }


def rows(name: str, options: argparse.Namespace) -> list[list[str]]:
    """A row for each number of images; draws are computed first where they are missing."""
    table = []
    for count in COUNTS:
        draws = []
        for draw in range(DRAWS):
            path = options.cache / f"few-images-{name}-{count}-{draw}-{code_digest()}.json"
            draws.append(cached_json(path, partial(results_of_draw, str(options.data / name), count, draw)))
        aurocs = ", ".join(f"{draw['auroc']:.3f}" for draw in draws)
        shares = [
            ", ".join(DASH if draw[key] is None else percent(draw[key]) for draw in draws)
            for key in ("rate", "caught", "alarms")
        ]
        table.append([f"{name}, {count}", aurocs, *shares])
    return table


def main(words: list[str]) -> int:
    """Print the table."""
    options = parse(folder_parser(__doc__), words, needs_data=True)
    columns = ("normal images", "image AUROC of each draw", "guaranteed rate", "caught at it", "false alarms")
    lines = (row for name in options.set for row in rows(name, options))
    return print_table(columns, lines, [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
