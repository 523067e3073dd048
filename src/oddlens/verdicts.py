"""Writing what was decided: verdict files (CSV, JSON lines, Parquet) and anomaly maps as pictures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from oddlens import heatmaps
from oddlens.datasets import ImageSet
from oddlens.detector import Detector, Verdicts
from oddlens.errors import MissingExtraError, SettingsError
from oddlens.files import replacing
from oddlens.images import Pixels

COLUMNS = ("file", "anomaly_score", "p_value", "threshold", "label", "verdict")

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]


def rows(verdicts: Verdicts) -> list[Row]:
    """One row an image, in the order in which they were given; floats keep all their digits.

    There is no threshold where it is infinite: no image could be flagged, or every one is.
    """
    columns = (
        verdicts.files,
        verdicts.anomaly_score.tolist(),
        [None if np.isnan(p) else p for p in verdicts.p_value.tolist()],
        [limit if np.isfinite(limit) else None for limit in verdicts.threshold.tolist()],
        verdicts.label.tolist(),
        verdicts.verdict,
    )
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Write]:
    """Give a function that appends rows; the file appears whole when the block ends well, or not at all.

    Raises:
        SettingsError: the name ends in none of .csv, .jsonl, .parquet.
        MissingExtraError: Parquet was asked for without pyarrow.
        OddlensError: the file cannot be written.
    """
    formats = {".csv": csv_writer, ".jsonl": json_writer, ".parquet": parquet_writer}
    if path.suffix not in formats:
        raise SettingsError(f"{path}: verdict files end in {', '.join(formats)}")
    with replacing(path) as file, formats[path.suffix](file) as write:
        yield write


@contextlib.contextmanager
def csv_writer(file: IO[bytes]) -> Iterator[Write]:
    """Comma-separated values with a header line, UTF-8."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    yield writer.writerows
    text.detach()  # flushes; the file is closed by who opened it


@contextlib.contextmanager
def json_writer(file: IO[bytes]) -> Iterator[Write]:
    """One JSON object a line."""
    yield lambda batch: file.writelines((json.dumps(row) + "\n").encode() for row in batch)


@contextlib.contextmanager
def parquet_writer(file: IO[bytes]) -> Iterator[Write]:
    """Apache Parquet, one row group a batch."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError("writing Parquet", "parquet") from error
    types = (pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.int8(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda batch: writer.write_table(pa.Table.from_pylist([readable(row) for row in batch], schema))


def readable(row: Row) -> Row:
    """The row with a file name that is text; bytes that are none become question marks."""
    return row | {"file": row["file"].encode("utf-8", "replace").decode()}


def map_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """Where each image's map goes: its place below the images' common folder, `<name>_map.png`."""
    parents = [os.path.dirname(os.path.abspath(name)) for name in names]  # noqa: PTH100, PTH120 - strings, not files
    root = os.path.commonpath(parents) if parents else ""
    places = [
        folder / os.path.relpath(parent, root) / Path(name).stem for parent, name in zip(parents, names, strict=True)
    ]
    twice = {place for place, count in Counter(places).items() if count > 1}
    return [
        place.with_name(f"{Path(name).name if place in twice else place.name}_map.png")
        for place, name in zip(places, names, strict=True)
    ]


def write_map(path: Path, image: Pixels, anomaly_map: npt.NDArray[np.float32], level: float, value_max: int) -> None:
    """The image with its anomaly map over it, as PNG, at the image's own size; see `heatmaps.overlay`."""
    with replacing(path) as file:
        Image.fromarray(heatmaps.overlay(image, anomaly_map, level, value_max)).save(file, format="PNG")


def judged(
    detector: Detector,
    images: ImageSet,
    maps: Path | None = None,
    fdr: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[list[Row]]:
    """Score images and give their rows a batch at a time; with `maps`, write each one's map below that folder.

    With a false discovery rate `fdr`, a verdict depends on all the scores: the rows come at the end, at once.
    `progress` is told how many images are scored.
    """
    places = map_paths(maps, images.names) if maps else []
    kept, done = [np.empty(0)], 0
    for outputs in detector.run(images):
        scores = outputs.anomaly_score
        if maps and outputs.anomaly_map is not None and detector.map_level is not None:
            for i, anomaly_map in enumerate(outputs.anomaly_map, done):
                write_map(places[i], images.image(i), anomaly_map, detector.map_level, detector.spec.value_max)
        if fdr is None:
            part = slice(done, done + len(scores))
            yield rows(detector.judge(images.names[part], scores, groups=images.groups[part]))
        else:
            kept.append(scores)
        done += len(scores)
        if progress:
            progress(done)
    if fdr is not None:
        yield rows(detector.judge(images.names, np.concatenate(kept), fdr, images.groups))


def print_csv(lines: Sequence[Row]) -> None:
    """Rows as CSV on stdout, for a person or a pipe."""
    sys.stdout.flush()
    with csv_writer(sys.stdout.buffer) as write:
        write(lines)
    sys.stdout.buffer.flush()
