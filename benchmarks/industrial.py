"""Industrial tables: photographs of magnetic tiles and the built-in woven tiles.

    python benchmarks/industrial.py --set magnetic-tile tiles --data DIR

Settings were chosen on `magnetic-tile-dev`; the tables are of test images. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cells import Cell, Cells, fit_and_eval, thumbnails
from tables import (
    DASH,
    PAIRS,
    THUMBNAILS,
    Published,
    alarms,
    budget,
    heading,
    image_auroc,
    interval,
    make_parser,
    markdown,
    number,
    pairs,
    percent,
    ranking,
    rates,
    show,
    thumbnail_aurocs,
)

SOURCES = {"magnetic-tile": "$DATA/magnetic-tile", "tiles": "tiles"}
BUDGETS = {"magnetic-tile": "15m", "tiles": "5m"}
PUBLISHED = (
    Published("GeoTrans", (75.5,)),
    Published("GANomaly", (76.6,)),
    Published("1-NN on features", (80.0,), pretrained=True),
    Published("DifferNet", (97.7,), pretrained=True),
    Published("PatchCore", (97.9,), pretrained=True),
)
LEAK_NOTE = (
    "The published figures probably come from leaking random splits: each tile was photographed at about six "
    "exposures, so a random split has other photographs of the test tiles among its training images. On such a split "
    "the nearest 8 x 8 thumbnail alone reaches 98. Our split keeps all photographs of a tile together, so the figures "
    "are not comparable."
)


def table(cells: Cells, name: str, options: argparse.Namespace) -> str:
    """Return the tables of a data set: detectors and baselines, kinds of defects, and published numbers."""
    source = SOURCES[name]
    ours = cells.need(
        fit_and_eval(
            source, None, options.detector, options.seed,
            budget=budget(options, BUDGETS[name]), threads=options.threads, extra=options.extra,
        )
    )  # fmt: skip
    plain = cells.cached(fit_and_eval(source, None, "autoencoder", options.seed, threads=options.threads))
    baseline = cells.need(thumbnails(source))
    columns = (
        "detector", "image AUROC", "95% interval", "pixel AUROC", "AUPRO", "false alarms (requested)", "caught",
        "`seconds.fit`",
    )  # fmt: skip
    rows = [row(f"**{options.detector}**", ours)]
    rows += [row("autoencoder", plain)] if options.detector != "autoencoder" else []
    for kind, value in zip(THUMBNAILS, thumbnail_aurocs(baseline), strict=True):
        rows.append((f"nearest thumbnail, {kind}", number(value, baseline), *[""] * (len(columns) - 2)))
    parts = [heading(name, options, BUDGETS[name]), markdown(columns, rows)]
    if ours is not None:
        parts.append(kinds(ours, plain, baseline))
        if name == "magnetic-tile":
            titles = ("image AUROC",)
            parts += [ranking(f"oddlens, {options.detector}", [image_auroc(ours)], PUBLISHED, titles), LEAK_NOTE]
    return "\n\n".join(parts)


def row(title: str, cell: Cell | None) -> tuple[str, ...]:
    """Return the row of one detector."""
    result = cell.result if cell else {}
    return (
        title, number(image_auroc(cell), cell), interval(cell), number(result.get("pixel_auroc"), cell),
        number(result.get("aupro"), cell), alarms(cell), percent(rates(cell)[1]),
        f"{cell.fit_seconds:.1f}" if cell else DASH,
    )  # fmt: skip


def kinds(ours: Cell, plain: Cell | None, baseline: Cell | None) -> str:
    """Return the table of AUROCs by kind of defect."""
    theirs = plain.result["per_class"] if plain else {}
    rows = []
    for kind, metrics in ours.result["per_class"].items():
        if metrics["auroc"] is not None:
            other = theirs.get(kind, {}).get("auroc")
            numbers = (number(metrics["auroc"], ours), percent(metrics["detection_rate"]), number(other, plain))
            rows.append((kind, str(metrics["n"]), *numbers, *pairs(thumbnail_aurocs(baseline, kind), baseline)))
    return markdown(("defect", "images", "AUROC", "caught", "autoencoder", *PAIRS), rows)


def main(words: Sequence[str]) -> int:
    """Compute what is missing, then print the tables."""
    parser = make_parser(__doc__.partition("\n")[0], tuple(SOURCES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    return show(options, lambda cells, name: table(cells, name, options), [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
