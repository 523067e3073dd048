"""Verdict files and map pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oddlens.batch import verdict_files
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError


def test_all_three_formats_hold_the_same_rows(fitted: Detector, digits: DataSet, tmp_path: Path) -> None:
    rows = verdict_files.verdict_rows(fitted.predict(digits.test))
    for suffix in ("csv", "jsonl", "parquet"):
        with verdict_files.open_verdict_file(tmp_path / f"v.{suffix}") as write:
            write(rows[:100])
            write(rows[100:])
    with (tmp_path / "v.csv").open() as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == verdict_files.COLUMNS
        read = [row | {key: float(row[key]) for key in ("anomaly_score", "p_value", "threshold")} for row in reader]
        assert [row | {"label": int(row["label"])} for row in read] == rows
    assert [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()] == rows
    assert pq.read_table(tmp_path / "v.parquet").to_pylist() == rows


def test_a_failure_half_way_leaves_no_verdict_file(fitted: Detector, digits: DataSet, tmp_path: Path) -> None:
    rows = verdict_files.verdict_rows(fitted.predict(digits.test))
    with pytest.raises(ZeroDivisionError), verdict_files.open_verdict_file(tmp_path / "v.csv") as write:
        write(rows[: len(rows) // 0])
    assert list(tmp_path.iterdir()) == []


def test_names_with_commas_quotes_and_newlines_survive_csv(fitted: Detector, digits: DataSet, tmp_path: Path) -> None:
    names = ("a,b.png", 'c"d.png', "e\nf.png", "ü.png")
    judged = fitted.predict_from_scores(names, fitted.score(digits.test.subset(np.arange(4))))
    with verdict_files.open_verdict_file(tmp_path / "v.csv") as write:
        write(verdict_files.verdict_rows(judged))
    with (tmp_path / "v.csv").open(newline="") as file:
        assert tuple(row["file"] for row in csv.DictReader(file)) == names


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match=r"end in \.csv, \.jsonl, \.parquet"),
        verdict_files.open_verdict_file(tmp_path / "v.xls"),
    ):
        pass


def test_maps_keep_the_folders_and_never_share_a_name(tmp_path: Path) -> None:
    names = ["d/good/a.png", "d/good/a.jpg", "d/crack/a.png", "d/crack/b.png"]
    paths = [str(path.relative_to(tmp_path)) for path in map(verdict_files.MapPaths(tmp_path, names), names)]
    assert paths == ["good/a.png_map.png", "good/a.jpg_map.png", "crack/a_map.png", "crack/b_map.png"]


def test_a_map_picture_is_grey_where_all_is_normal_and_red_where_it_is_not(tmp_path: Path) -> None:
    image = np.full((20, 30, 1), 100, dtype=np.uint8)
    values = np.zeros((20, 30), dtype=np.float32)
    values[:, 15:] = 3.0
    verdict_files.write_map(tmp_path / "deep" / "m.png", image, values, 1.0, 255)
    with Image.open(tmp_path / "deep" / "m.png") as file:
        picture = np.asarray(file)
    assert picture.shape == (20, 30, 3)
    assert (picture[:, :14] == 100).all()
    assert (picture[:, 16:, 0] > 180).all()
    assert (picture[:, 16:, 1] < 60).all()
