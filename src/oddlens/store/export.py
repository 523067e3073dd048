"""Inspections as CSV, Parquet or tasks of Label Studio, written page by page."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from oddlens.errors import MissingExtraError, SettingsError
from oddlens.io.atomic import atomic_write
from oddlens.io.text import as_cell
from oddlens.store.inspection import Filters, StoredInspection
from oddlens.store.store import Store

JUDGEMENT_COLUMNS = {"judgement": "verdict", "judged_by": "person", "judged_at": "time", "reason": "reason"}
LEFT_OUT = frozenset({"judgement", "training", "detector_sha256", "detector_suffix"})  # fields without a column
ARROW_TYPES = {
    "time": "time",
    "judged_at": "time",
    **dict.fromkeys(("id", "threads", "batch_size"), "int64"),
    **dict.fromkeys(("anomaly_score", "p_value", "threshold"), "float64"),
    **dict.fromkeys(("image_stored", "map_stored", "detector_stored"), "bool_"),
}  # all other columns are text
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="verdict" toName="image" choice="single">'
    '<Choice value="normal"/><Choice value="anomaly"/></Choices></View>'
)

Row = dict[str, Any]
Write = Callable[[Sequence[StoredInspection]], None]
Writer = Callable[[IO[bytes], Store], contextlib.AbstractContextManager[Write]]


@dataclass(frozen=True)
class Exported:
    """Numbers of inspections that were written, and of those that were not because their image has expired."""

    n: int
    n_without_image: int


def export(store: Store, path: Path, filters: Filters) -> Exported:
    """Write the inspections, oldest first, to a file whose suffix gives the format; in memory are some at a time.

    Label Studio's tasks need an image, so inspections whose image has expired are not among them.

    Raises:
        SettingsError: the suffix is none of .csv, .parquet, .json.
        MissingExtraError: the suffix is .parquet, and pyarrow is not installed.
        OddlensError: the file cannot be written; an older one is unchanged.
    """
    writer, needs_image, n, n_without_image = find_writer(path), path.suffix == ".json", 0, 0
    with atomic_write(path) as file, writer(file, store) as write:
        for page in store.iter_inspections(filters):
            rows = [inspection for inspection in page if inspection.image_stored or not needs_image]
            write(rows)
            n, n_without_image = n + len(rows), n_without_image + len(page) - len(rows)
    return Exported(n, n_without_image)


def find_writer(path: Path) -> Writer:
    """The writer for a file by its suffix.

    Raises:
        SettingsError, MissingExtraError: as `export`.
    """
    writers: dict[str, Writer] = {".csv": csv_writer, ".parquet": parquet_writer, ".json": label_studio_writer}
    if path.suffix not in writers:
        suffix = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise SettingsError(
            f"{path}: an export must end in .csv, .parquet or .json (tasks of Label Studio), not {suffix}"
        )
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401 - fails now rather than at the first row
        except ModuleNotFoundError as error:
            raise MissingExtraError("writing Parquet", "parquet") from error
    return writers[path.suffix]


def to_row(inspection: StoredInspection) -> Row:
    """The values of the columns, in their order."""
    row = {name: value for name, value in vars(inspection).items() if name not in LEFT_OUT}
    judged = {column: getattr(inspection.judgement, name, None) for column, name in JUDGEMENT_COLUMNS.items()}
    return {"id": row.pop("id"), "time": row.pop("time"), **row, **judged}


def to_cell(value: object) -> object:
    """A value in CSV."""
    return value.isoformat() if isinstance(value, datetime) else as_cell(value)


def columns() -> list[str]:
    """The names of the columns, in their order."""
    names = [name for name in StoredInspection.__dataclass_fields__ if name not in (*LEFT_OUT, "id", "time")]
    return ["id", "time", *names, *JUDGEMENT_COLUMNS]


@contextlib.contextmanager
def csv_writer(file: IO[bytes], store: Store) -> Iterator[Write]:
    """Comma-separated values (RFC 4180) with a header line, in UTF-8."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(columns())
    yield lambda page: writer.writerows(map(to_cell, to_row(inspection).values()) for inspection in page)
    text.detach()  # flushes without closing the file


@contextlib.contextmanager
def parquet_writer(file: IO[bytes], store: Store) -> Iterator[Write]:
    """Apache Parquet, with one row group for each page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"time": pa.timestamp("us", tz="UTC"), "int64": pa.int64(), "float64": pa.float64(), "bool_": pa.bool_()}
    schema = pa.schema([(name, types.get(ARROW_TYPES.get(name, ""), pa.string())) for name in columns()])
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda page: writer.write_table(pa.Table.from_pylist(list(map(to_row, page)), schema))


@contextlib.contextmanager
def label_studio_writer(file: IO[bytes], store: Store) -> Iterator[Write]:
    """A JSON list of tasks, one a line, for a project with `LABEL_CONFIG`."""
    separator = b"[\n"

    def write(page: Sequence[StoredInspection]) -> None:
        nonlocal separator
        for inspection in page:
            file.write(separator + json.dumps(to_task(inspection, store)).encode())
            separator = b",\n"

    yield write
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def to_task(inspection: StoredInspection, store: Store) -> Row:
    """A task of Label Studio: the verdict is a prediction, the judgement an annotation.

    The image is a file below the store's folder, which Label Studio serves as local storage.
    """
    image, judgement = store.files.path(inspection.image_sha256), inspection.judgement
    data = {"image": f"/data/local-files/?d={image.relative_to(store.files.folder).as_posix()}"}
    for name, value in to_row(inspection).items():
        data[name] = value.isoformat() if isinstance(value, datetime) else value
    prediction: Row = {
        "model_version": f"{inspection.detector} {inspection.detector_digest}",
        "result": to_result(inspection.verdict),
    }
    if inspection.p_value is not None:
        prediction["score"] = 1 - inspection.p_value  # from 0 to 1, as Label Studio wants it
    annotations = [] if judgement is None else [{"result": to_result(judgement.verdict)}]
    return {"data": data, "predictions": [prediction], "annotations": annotations}


def to_result(verdict: str | None) -> list[Row]:
    """A verdict as the result of Label Studio's choices."""
    return [{"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": [verdict]}}]
