"""Verdict files (CSV, JSON lines, Parquet) and PNG files of anomaly maps."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from oddlens.data.image_io import Pixels
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import MissingExtraError, SettingsError
from oddlens.io.atomic import atomic_write
from oddlens.io.own_files import PNG_METADATA
from oddlens.io.text import as_cell
from oddlens.reporting import heatmaps

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("file", "anomaly_score", "p_value", "threshold", "label", "verdict")

VerdictRow = dict[str, Any]
WriteRows = Callable[[Sequence[VerdictRow]], None]
Writer = Callable[[IO[bytes]], contextlib.AbstractContextManager[WriteRows]]


def verdict_rows(verdicts: Verdicts, part: slice = slice(None)) -> list[VerdictRow]:
    """Return one row for each image in `part`, in the order of the verdicts; floats keep all digits.

    `threshold` is None where it is infinite, so that either no image can be flagged or every image is.
    """
    selected = Verdicts(
        files=verdicts.files[part],
        anomaly_score=verdicts.anomaly_score[part],
        p_value=verdicts.p_value[part],
        threshold=verdicts.threshold[part],
        label=verdicts.label[part],
    )
    columns = (
        selected.files,
        selected.anomaly_score.tolist(),
        [None if np.isnan(p) else p for p in selected.p_value.tolist()],
        [value if np.isfinite(value) else None for value in selected.threshold.tolist()],
        selected.label.tolist(),
        selected.verdict,
    )
    return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]


def find_writer(path: Path) -> Writer:
    """Return the writer for a verdict file by its suffix.

    Raises:
        SettingsError: the suffix is none of .csv, .jsonl, .parquet.
        MissingExtraError: the suffix is .parquet and pyarrow is not installed.
    """
    formats = {".csv": csv_writer, ".jsonl": json_writer, ".parquet": parquet_writer}
    if path.suffix not in formats:
        suffix = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise SettingsError(f"{path}: a verdict file must end in {', '.join(formats)}, not {suffix}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - fails now rather than after hours of scoring
        except ModuleNotFoundError as error:
            raise MissingExtraError("writing Parquet", "parquet") from error
    return formats[path.suffix]


@contextlib.contextmanager
def open_verdict_file(path: Path) -> Iterator[WriteRows]:
    """Yield a function that appends rows; the file is created only if the block ends without an error.

    Raises:
        SettingsError, MissingExtraError: as for `find_writer`.
        OddlensError: the file cannot be written.
    """
    writer = find_writer(path)
    with atomic_write(path) as file, writer(file) as write:
        yield write


@contextlib.contextmanager
def csv_writer(file: IO[bytes]) -> Iterator[WriteRows]:
    """Write comma-separated values with a header line, in UTF-8; names that a spreadsheet would run get a quote."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    yield lambda rows: writer.writerows([as_cell(row[column]) for column in COLUMNS] for row in rows)
    text.detach()  # flushes without closing the file, which the caller does


@contextlib.contextmanager
def json_writer(file: IO[bytes]) -> Iterator[WriteRows]:
    """Write one JSON object per line."""
    yield lambda batch: file.writelines((json.dumps(row) + "\n").encode() for row in batch)


@contextlib.contextmanager
def parquet_writer(file: IO[bytes]) -> Iterator[WriteRows]:
    """Write Apache Parquet, with one row group for the rows of each call."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema()
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda batch: writer.write_table(
            pa.Table.from_pylist([replace_undecodable(row) for row in batch], schema)
        )


def parquet_schema() -> pa.Schema:
    """The columns of a verdict file and their types in Parquet."""
    import pyarrow as pa

    types = (pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.int8(), pa.string())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def replace_undecodable(row: VerdictRow) -> VerdictRow:
    """Replace bytes of the file name that are not valid text by question marks."""
    return row | {"file": row["file"].encode("utf-8", "replace").decode()}


class MapPaths:
    """The path of each image's map: `<name>_map.png`, in the same subfolder as below the images' common folder.

    Images that would share a path, such as `a.png` and `a.jpg`, keep their suffixes in it.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.root = os.path.commonpath({_parent(name) for name in names}) if names else ""
        counts = Counter(map(self._stem, names))
        self.shared = {stem for stem, count in counts.items() if count > 1}
        whole_names = {self._whole(name) for name in names if self._stem(name) in self.shared}
        self.shared |= whole_names & counts.keys()  # "a.png.png", beside "a.png" and "a.jpg"

    def __call__(self, name: str) -> Path:
        """Return the path of the map of one of the images."""
        stem = self._stem(name)
        path = self.folder / stem
        return path.with_name(f"{Path(name).name if stem in self.shared else path.name}_map.png")

    def _whole(self, name: str) -> str:
        return os.path.join(os.path.relpath(_parent(name), self.root), Path(name).name)  # noqa: PTH118 - a string

    def _stem(self, name: str) -> str:
        return os.path.join(os.path.relpath(_parent(name), self.root), Path(name).stem)  # noqa: PTH118 - a string


def _parent(name: str) -> str:
    return os.path.dirname(os.path.abspath(name))  # noqa: PTH100, PTH120 - strings, not files


def write_map(
    path: Path, image: Pixels, anomaly_map: npt.NDArray[np.float32], threshold: float, value_max: int
) -> None:
    """Write the anomaly map over its image as PNG, at the size of the image; see `heatmaps.overlay`.

    The fastest compression takes a quarter of the time of the usual one, for files that are a tenth larger.
    """
    info = PngInfo()
    for name, text in PNG_METADATA.items():
        info.add_text(name, text)
    overlay = Image.fromarray(heatmaps.overlay(image, anomaly_map, threshold, value_max))
    with atomic_write(path) as file:
        overlay.save(file, format="PNG", compress_level=1, pnginfo=info)
