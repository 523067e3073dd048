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

from oddlens.data.image_io import Pixels
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import MissingExtraError, SettingsError
from oddlens.io.atomic import atomic_write
from oddlens.reporting import heatmaps

COLUMNS = ("file", "anomaly_score", "p_value", "threshold", "label", "verdict")

VerdictRow = dict[str, Any]
Write = Callable[[Sequence[VerdictRow]], None]
Writer = Callable[[IO[bytes]], contextlib.AbstractContextManager[Write]]


def verdict_rows(verdicts: Verdicts, part: slice = slice(None)) -> list[VerdictRow]:
    """One row an image (of a part of them), in the order in which they were given; floats keep all their digits.

    There is no threshold where it is infinite: no image could be flagged, or every one is.
    """
    columns = (
        verdicts.files[part],
        verdicts.anomaly_score[part].tolist(),
        [None if np.isnan(p) else p for p in verdicts.p_value[part].tolist()],
        [limit if np.isfinite(limit) else None for limit in verdicts.threshold[part].tolist()],
        verdicts.label[part].tolist(),
        ["anomaly" if label else "normal" for label in verdicts.label[part]],
    )
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]


def writer_of(path: Path) -> Writer:
    """What writes verdicts into such a file.

    Raises:
        SettingsError: the name ends in none of .csv, .jsonl, .parquet.
        MissingExtraError: Parquet was asked for without pyarrow.
    """
    formats = {".csv": csv_writer, ".jsonl": json_writer, ".parquet": parquet_writer}
    if path.suffix not in formats:
        raise SettingsError(f"{path}: verdict files end in {', '.join(formats)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - now, not after hours of scoring
        except ModuleNotFoundError as error:
            raise MissingExtraError("writing Parquet", "parquet") from error
    return formats[path.suffix]


@contextlib.contextmanager
def open_verdict_file(path: Path) -> Iterator[Write]:
    """Give a function that appends rows; the file appears whole when the block ends well, or not at all.

    Raises:
        SettingsError, MissingExtraError: as `writer_of`.
        OddlensError: the file cannot be written.
    """
    writer = writer_of(path)
    with atomic_write(path) as file, writer(file) as write:
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
    """Apache Parquet, one row group for the rows of each call."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.int8(), pa.string())
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda batch: writer.write_table(pa.Table.from_pylist([readable_row(row) for row in batch], schema))


def readable_row(row: VerdictRow) -> VerdictRow:
    """The row with a file name that is text; bytes that are none become question marks."""
    return row | {"file": row["file"].encode("utf-8", "replace").decode()}


class MapPaths:
    """Where each image's map goes: its place below the images' common folder, `<name>_map.png`.

    Images that would share it, such as `a.png` and `a.jpg`, keep their whole names.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.root = os.path.commonpath({_parent(name) for name in names}) if names else ""
        counts = Counter(map(self._stem, names))
        self.shared = {stem for stem, count in counts.items() if count > 1}

    def __call__(self, name: str) -> Path:
        """The map of one of the images."""
        stem = self._stem(name)
        place = self.folder / stem
        return place.with_name(f"{Path(name).name if stem in self.shared else place.name}_map.png")

    def _stem(self, name: str) -> str:
        return os.path.join(os.path.relpath(_parent(name), self.root), Path(name).stem)  # noqa: PTH118 - a string


def _parent(name: str) -> str:
    return os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120 - strings, not files


def write_map(path: Path, image: Pixels, anomaly_map: npt.NDArray[np.float32], level: float, value_max: int) -> None:
    """The image with its anomaly map over it, as PNG, at the image's own size; see `heatmaps.overlay`."""
    with atomic_write(path) as file:
        Image.fromarray(heatmaps.overlay(image, anomaly_map, level, value_max)).save(file, format="PNG")


def print_csv(lines: Sequence[VerdictRow]) -> None:
    """Rows as CSV on stdout, for a person or a pipe."""
    sys.stdout.flush()
    with csv_writer(sys.stdout.buffer) as write:
        write(lines)
    sys.stdout.buffer.flush()
