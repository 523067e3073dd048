"""Exports: all that was recorded, in formats that others read, without harm to them and in constant memory."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stored_inspections import DETECTOR_FILE, add_some, inspection

from oddlens.detector.detector import Detector
from oddlens.errors import MissingExtraError, SettingsError
from oddlens.store.export import LABEL_CONFIG, columns, export
from oddlens.store.inspection import Filters, StoredInspection
from oddlens.store.open import open_store
from oddlens.store.store import Store

ALL = Filters()
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def test_csv_has_a_row_for_each_inspection_with_its_judgement(store: Store, tmp_path: Path) -> None:
    store.add(inspection(name="a.png", lot="A", time=NOON, anomaly_score=0.1 + 0.2, p_value=None), b"image")
    store.add(inspection(name="b.png", anomaly_score=-1.5), b"another")
    store.judge(1, "anomaly", person="Ann", reason="a scratch,\nsaid twice")
    exported = export(store, tmp_path / "x.csv", ALL)
    assert (exported.n, exported.n_without_image) == (2, 0)
    first, second = read_csv(tmp_path / "x.csv")
    assert list(first) == columns()
    assert (first["id"], first["time"], first["name"]) == ("1", NOON.isoformat(), "a.png")
    assert float(first["anomaly_score"]) == 0.1 + 0.2
    assert (first["p_value"], first["lot"], first["image_stored"]) == ("", "A", "True")
    assert (first["judgement"], first["judged_by"], first["reason"]) == ("anomaly", "Ann", "a scratch,\nsaid twice")
    assert (second["anomaly_score"], second["judgement"], second["reason"]) == ("-1.5", "", "")


def test_cells_that_a_spreadsheet_would_run_are_quoted(store: Store, tmp_path: Path) -> None:
    starts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    for start in starts:
        number = store.add(inspection(name=start, part=start, operator=f"x{start}"), b"image")
        store.judge(number, "normal", person=start, reason=start)
    export(store, tmp_path / "x.csv", ALL)
    for start, row in zip(starts, read_csv(tmp_path / "x.csv"), strict=True):
        assert [row[name] for name in ("name", "part", "judged_by", "reason")] == [f"'{start}"] * 4
        assert row["operator"] == f"x{start}"


def test_parquet_has_types(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    monkeypatch.setattr("oddlens.store.store.PAGE", 2)
    store.add(inspection(name="=1", time=NOON, lot=None, threads=None), b"image", b"map")
    add_some(store, 4)
    store.judge(1, "anomaly", person="Ann")
    export(store, tmp_path / "x.parquet", ALL)
    file = parquet.ParquetFile(tmp_path / "x.parquet")
    rows: list[dict[str, Any]] = file.read().to_pylist()
    file.close()
    assert file.metadata.num_row_groups == 3
    assert list(rows[0]) == columns()
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[0]["name"], rows[0]["time"], rows[0]["lot"], rows[0]["map_stored"]) == ("=1", NOON, None, True)
    assert (rows[0]["judgement"], rows[1]["judged_at"]) == ("anomaly", None)


def tasks(store: Store, path: Path) -> list[dict[str, Any]]:
    export(store, path, ALL)
    values: list[dict[str, Any]] = json.loads(path.read_text())
    return values


def test_tasks_of_label_studio_have_predictions_and_annotations(store: Store, tmp_path: Path) -> None:
    add_some(store, 2)
    store.judge(2, "anomaly", person="Ann")
    first, second = tasks(store, tmp_path / "x.json")
    result = {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": ["normal"]}}
    assert first["predictions"][0]["result"] == [result]
    assert first["predictions"][0]["score"] == 0.75
    assert first["annotations"] == []
    assert second["annotations"] == [{"result": [result | {"value": {"choices": ["anomaly"]}}]}]
    assert second["data"]["judged_by"] == "Ann"
    prefix, _, below = first["data"]["image"].partition("?d=")
    assert prefix == "/data/local-files/"
    assert (store.files.folder / below).read_bytes() == b"image 0"


def test_the_sdk_of_label_studio_accepts_the_tasks(store: Store, tmp_path: Path) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="needs the package label-studio-sdk")
    add_some(store, 2)
    add_some(store, 1, p_value=None)
    store.judge(2, "anomaly", person="Ann")
    interface = sdk.LabelInterface(LABEL_CONFIG)
    interface.validate()
    for task in tasks(store, tmp_path / "x.json"):
        assert interface.validate_task({"data": task["data"]})  # its check of whole tasks calls itself wrongly
        assert all(map(interface.validate_prediction, task["predictions"]))
        assert all(map(interface.validate_annotation, task["annotations"]))


def test_tasks_without_an_image_are_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    assert tasks(store, tmp_path / "x.json") == []
    add_some(store, 3)
    store.prune(keep_gb=0)
    add_some(store, 1)
    exported = export(store, tmp_path / "x.json", ALL)
    assert (exported.n, exported.n_without_image) == (2, 2)  # the first image is there again
    assert export(store, tmp_path / "x.csv", ALL).n == 4


def test_filters_apply_and_an_empty_export_has_a_header(store: Store, tmp_path: Path) -> None:
    add_some(store, 3)
    assert export(store, tmp_path / "x.csv", Filters(verdict="anomaly")).n == 0
    assert (tmp_path / "x.csv").read_text() == ",".join(columns()) + "\n"


def test_other_formats_are_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    for name in ("x.xlsx", "x"):
        with pytest.raises(SettingsError, match=r"must end in \.csv, \.parquet or \.json"):
            export(store, tmp_path / name, ALL)
    assert not (tmp_path / "x").exists()


def test_a_missing_package_for_parquet_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[parquet\]"):
        export(store, tmp_path / "x.parquet", ALL)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path, suffix: str, tiles: Detector) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        add_some(store, 100)
        (page,) = store.iter_inspections()

    def pages(count: int) -> Iterator[list[StoredInspection]]:
        for _ in range(count):
            yield list(page)

    def peak(count: int) -> int:
        long_store = cast(Store, SimpleNamespace(iter_inspections=lambda _: pages(count), files=store.files))
        tracemalloc.start()
        export(long_store, tmp_path / f"x{suffix}", ALL)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(2), peak(22)
    assert many < few + 300_000  # of 2,000 more rows, each of which takes more than 500 bytes in any of the files
