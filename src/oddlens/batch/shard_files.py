"""The verdict file of a shard: one deterministic Parquet file, with what it was made from in its metadata."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens.batch.shards import Shard, ShardScores
from oddlens.batch.verdict_files import parquet_schema
from oddlens.detector.detector import Detector
from oddlens.io.atomic import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"oddlens"
BRIGHTNESS_KEY = b"oddlens.brightness"  # float64 of each image in base64, NaN where it has no verdict


def shard_path(folder: Path, index: int) -> Path:
    """The path of the verdict file of a shard."""
    return folder / f"part-{index:06}.parquet"


def verdict_table(detector: Detector, shard: Shard, scores: ShardScores) -> pa.Table:
    """The verdicts on a shard: the rows that `oddlens score` gives, and rows with an error instead."""
    import pyarrow as pa

    good = np.flatnonzero(~np.isnan(scores.anomaly_score))
    names = [shard.files[i] for i in good]
    groups = [shard.groups[i] for i in good] if shard.groups else ()
    verdicts = detector.predict_from_scores(names, scores.anomaly_score[good], groups=groups)
    columns: list[Any] = [shard.files]
    for values in (verdicts.anomaly_score, verdicts.p_value, verdicts.threshold, verdicts.label):
        column = np.zeros(len(shard), values.dtype)
        column[good] = values
        is_null = np.ones(len(shard), dtype=bool)
        is_null[good] = ~np.isfinite(values)
        columns.append(pa.array(column, mask=is_null))
    columns.append(pa.array(["normal", "anomaly"]).take(columns[-1]))
    columns.append([scores.errors.get(i) for i in range(len(shard))])
    light = {} if scores.brightness is None else {BRIGHTNESS_KEY: b64encode(scores.brightness.tobytes())}
    return pa.table(columns, schema().with_metadata(light))


def brightness_of(table: pa.Table) -> npt.NDArray[np.float64] | None:
    """The brightness (N,) of the images in a table of verdicts; None where an older version wrote it."""
    text = (table.schema.metadata or {}).get(BRIGHTNESS_KEY)
    return None if text is None else np.frombuffer(b64decode(text))


def schema() -> pa.Schema:
    """The columns of verdict files, and `error`: why an image has no verdict."""
    import pyarrow as pa

    return parquet_schema().append(pa.field("error", pa.string()))


def write_shard(path: Path, table: pa.Table, origin: dict[str, str]) -> None:
    """Write a verdict file, atomically; `origin` says what it was made from.

    Raises:
        DiskFullError, OddlensError: it cannot be written.
    """
    import pyarrow.parquet as pq

    origin_metadata = {METADATA_KEY: json.dumps(origin, sort_keys=True)}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | origin_metadata)
    with atomic_write(path) as file:
        pq.write_table(table, file, row_group_size=max(1, len(table)), write_page_checksum=True)


def read_verified(path: Path, shard: Shard, origin: dict[str, str]) -> pa.Table | None:
    """The verdicts in a complete file of this shard and origin; None if there is none, or it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            if json.loads(metadata.get(METADATA_KEY, b"null")) != origin:
                return None
            own = {key: metadata[key] for key in (BRIGHTNESS_KEY,) if key in metadata}
            table = file.read().replace_schema_metadata(own)
        light = brightness_of(table)
        is_whole = table.schema.equals(schema()) and tuple(table.column("file").to_pylist()) == shard.files
        is_whole = is_whole and (light is None or len(light) == len(table))
    except (pa.ArrowException, OSError, ValueError):
        return None
    return table if is_whole else None
