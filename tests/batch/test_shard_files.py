"""Verdict files of shards: deterministic, with the rows of `score` and errors, and recognized as complete or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddlens.batch.shard_files import brightness_of, read_verified, schema, shard_path, verdict_table, write_shard
from oddlens.batch.shards import Shard, ShardScores
from oddlens.batch.verdict_files import COLUMNS, verdict_rows
from oddlens.detector.detector import Detector

FILES = ("a.png", "b.png", "c.png")
SHARD = Shard(4, 12, FILES, (None,) * 3, (None,) * 3)
SCORES = ShardScores(np.array([0.5, np.nan, 1e9]), {1: "is empty"}, np.array([0.25, np.nan, 0.75]))
ORIGIN = {"detector": "d", "shard": SHARD.digest}


@pytest.fixture
def table(digits_detector: Detector) -> pa.Table:
    return verdict_table(digits_detector, SHARD, SCORES)


@pytest.fixture
def path(table: pa.Table, tmp_path: Path) -> Path:
    write_shard(shard_path(tmp_path, 4), table, ORIGIN)
    return tmp_path / "part-000004.parquet"


def test_rows_are_those_of_verdict_files_and_errors(digits_detector: Detector, table: pa.Table) -> None:
    expected = verdict_rows(digits_detector.predict_from_scores(["a.png", "c.png"], np.array([0.5, 1e9])))
    rows = table.to_pylist()
    assert [rows[0], rows[2]] == [row | {"error": None} for row in expected]
    assert rows[1] == dict.fromkeys(COLUMNS) | {"file": "b.png", "error": "is empty"}
    assert rows[2]["verdict"] == "anomaly"


def test_what_has_no_value_is_null(digits_detector: Detector) -> None:
    """An infinite threshold and a p-value without calibration, as in verdict files."""

    class Unlimited:
        def predict_from_scores(self, names: list[str], scores: np.ndarray, groups: object = ()) -> object:
            verdicts = digits_detector.predict_from_scores(names, scores)
            verdicts.threshold[:], verdicts.p_value[:] = np.inf, np.nan
            return verdicts

    row = verdict_table(Unlimited(), SHARD, SCORES).to_pylist()[0]  # type: ignore[arg-type]
    assert (row["threshold"], row["p_value"], row["anomaly_score"]) == (None, None, 0.5)


def test_a_file_that_was_written_is_read_again(table: pa.Table, path: Path) -> None:
    again = read_verified(path, SHARD, ORIGIN)
    assert again is not None
    assert again.equals(table)
    assert again.schema.equals(schema())


def test_the_same_rows_give_the_same_bytes(table: pa.Table, path: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "again.parquet", table, dict(reversed(ORIGIN.items())))
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_other_origins_and_other_shards_are_not_done(path: Path, tmp_path: Path) -> None:
    assert read_verified(path, SHARD, ORIGIN | {"detector": "other"}) is None
    assert read_verified(path, Shard(4, 12, ("a.png", "b.png", "d.png"), (None,) * 3, (None,) * 3), ORIGIN) is None
    assert read_verified(tmp_path / "missing.parquet", SHARD, ORIGIN) is None
    pq.write_table(pa.table({"file": FILES}), path)
    assert read_verified(path, SHARD, ORIGIN) is None


def test_every_damage_is_noticed_or_changes_no_row(path: Path, table: pa.Table) -> None:
    content = path.read_bytes()
    noticed = 0
    for place in range(0, len(content), 5):
        for bit in (1, 128):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            again = read_verified(path, SHARD, ORIGIN)
            noticed += again is None
            assert again is None or again.equals(table), (place, bit)
    assert noticed > 100
    for length in range(0, len(content), 31):
        path.write_bytes(content[:length])
        assert read_verified(path, SHARD, ORIGIN) is None


def test_the_brightness_of_images_is_read_again_and_an_older_file_has_none(
    digits_detector: Detector, path: Path, tmp_path: Path
) -> None:
    again = read_verified(path, SHARD, ORIGIN)
    assert again is not None
    assert SCORES.brightness is not None
    np.testing.assert_array_equal(brightness_of(again), SCORES.brightness)
    older = verdict_table(digits_detector, SHARD, ShardScores(SCORES.anomaly_score, SCORES.errors))
    write_shard(tmp_path / "older.parquet", older, ORIGIN)
    again = read_verified(tmp_path / "older.parquet", SHARD, ORIGIN)
    assert again is not None
    assert brightness_of(again) is None
    damaged = older.replace_schema_metadata({b"oddlens.brightness": b"AAAAAAAAAAA="})  # of one image
    write_shard(tmp_path / "damaged.parquet", damaged, ORIGIN)
    assert read_verified(tmp_path / "damaged.parquet", SHARD, ORIGIN) is None
