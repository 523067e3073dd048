"""What the default `oddlens fit` catches at its guaranteed rate: one row for each data set, means of the seeds.

    python benchmarks/default_detector.py --set bottle pill ksdd magnetic-tile tiles --seeds 0,1,2 --data DIR
    python benchmarks/default_detector.py --set bottle --data DIR -- --no-pretrained

Settings were chosen on bottle, ksdd and `magnetic-tile-dev`; the dictionary stands beside padim because of tiles. See
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cells import Cell, Cells, fit_and_eval
from tables import fit_parser, image_auroc, markdown, mean, number, parse, percent, show

SETS = {
    "bottle": "$DATA/bottle",
    "pill": "$DATA/pill",
    "ksdd": "$DATA/ksdd",
    "magnetic-tile": "$DATA/magnetic-tile",
    "tiles": "tiles",
}
CHOSEN_ON = ("bottle", "ksdd", "tiles")
COLUMNS = (
    "set", "image AUROC", "caught", "guaranteed rate", "false alarms, measured", "caught with 99", "pixel AUROC",
    "`seconds.fit`", "seeds",
)  # fmt: skip


def table(cells: Cells, name: str, options: argparse.Namespace) -> str:
    """The table of one data set, which has one row."""
    jobs = [
        fit_and_eval(
            SETS[name], None, options.detector, int(seed),
            budget=options.budget, threads=options.threads, extra=options.extra,
        )
        for seed in options.seeds.split(",")
    ]  # fmt: skip
    return markdown(COLUMNS, [row(name, [cell for job in jobs if (cell := cells.need(job)) is not None])])


def row(name: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    """The row of a data set: means over the cells of its seeds."""
    title = f"{name} (settings chosen here)" if name in CHOSEN_ON else name
    results = [cell.result for cell in cells]
    rates = (
        percent(mean([result[key] for result in results]))
        for key in ("detection_rate", "guaranteed_rate", "false_alarm_rate_measured", "detection_rate_at_99")
    )
    seconds = mean([cell.fit_seconds for cell in cells])
    return (
        title, number(mean([image_auroc(cell) for cell in cells])), *rates,
        number(mean([result.get("pixel_auroc") for result in results])), number(seconds, digits=0), str(len(cells)),
    )  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Compute what is missing, then print the tables."""
    parser = fit_parser(__doc__, tuple(SETS))
    parser.add_argument("--seeds", default="0", help="seeds, separated by commas (0)")
    options = parse(parser, words)
    return show(options, lambda cells, name: table(cells, name, options), [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
