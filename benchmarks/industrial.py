"""Industrial tables: photographs of magnetic tiles and the built-in woven tiles; and a figure of their anomaly maps.

    python benchmarks/industrial.py --set magnetic-tile tiles --data DIR
    python benchmarks/industrial.py --set magnetic-tile --data DIR --maps maps.png --detectors dictionary,defects

Settings were chosen on `magnetic-tile-dev`; the tables are of test images. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tile_maps
from cells import Cell, Cells, fit_and_eval, say, thumbnails
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
    open_cells,
    pairs,
    percent,
    ranking,
    rates,
    show,
    thumbnail_aurocs,
)

from oddlens.errors import OddlensError
from oddlens.reporting.figures import save_figure

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


def draw_maps(cells: Cells, name: str, options: argparse.Namespace) -> None:
    """Fit the requested detectors, keep their files, and draw their maps of ten defective and ten good test images.

    Raises:
        OddlensError: a detector file is missing or has no maps, or the figure cannot be written.
    """
    source, files = SOURCES[name], {}
    for family in options.detectors.split(","):
        job = fit_and_eval(
            source, None, family, options.seed, budget=options.budget, threads=options.threads, extra=options.extra
        )
        cells.need(job, detector=True)
        if not cells.detector(job).exists():
            raise OddlensError(f"{name}: the detector file of {family} is missing; run this without --print")
        files[family] = cells.detector(job)
    save_figure(tile_maps.draw(files, source.replace("$DATA", str(cells.data))), options.maps)
    say(f"{options.maps}: maps of {', '.join(files)}")


def main(words: Sequence[str]) -> int:
    """Compute what is missing, then print the tables or draw the figure."""
    parser = make_parser(__doc__.partition("\n")[0], tuple(SOURCES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--maps", type=Path, metavar="OUT.png", help="draw maps instead of printing a table")
    parser.add_argument("--detectors", default="dictionary,defects", help="detectors of --maps (dictionary,defects)")
    options = parser.parse_args(words)
    if options.maps and len(options.set) > 1:
        parser.error(f"--maps draws one data set, but --set names {len(options.set)}; pass one")
    if not options.maps:
        return show(options, lambda cells, name: table(cells, name, options), [__file__, *words])
    try:
        draw_maps(open_cells(options), options.set[0], options)
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
