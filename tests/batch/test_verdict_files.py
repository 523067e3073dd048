"""Verdict files and map files."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oddlens.batch import verdict_files
from oddlens.data.csv_files import read_rows
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import MissingExtraError, SettingsError


def test_all_formats_have_the_same_rows(digits_detector: Detector, digits: DataSet, tmp_path: Path) -> None:
    rows = verdict_files.verdict_rows(digits_detector.predict(digits.test))
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


def test_an_error_leaves_no_verdict_file(digits_detector: Detector, digits: DataSet, tmp_path: Path) -> None:
    rows = verdict_files.verdict_rows(digits_detector.predict(digits.test))
    with pytest.raises(ZeroDivisionError), verdict_files.open_verdict_file(tmp_path / "v.csv") as write:
        write(rows[: len(rows) // 0])
    assert list(tmp_path.iterdir()) == []


def test_csv_preserves_names_with_commas_quotes_and_newlines(
    digits_detector: Detector, digits: DataSet, tmp_path: Path
) -> None:
    names = ("a,b.png", 'c"d.png', "e\nf.png", "ü.png")
    verdicts = digits_detector.predict_from_scores(names, digits_detector.score(digits.test.subset(np.arange(4))))
    with verdict_files.open_verdict_file(tmp_path / "v.csv") as write:
        write(verdict_files.verdict_rows(verdicts))
    with (tmp_path / "v.csv").open(newline="") as file:
        assert tuple(row["file"] for row in csv.DictReader(file)) == names


def test_no_name_in_csv_is_a_formula_and_scores_are_numbers(digits_detector: Detector, tmp_path: Path) -> None:
    names = ("=cmd.png", "+a.png", "-b.png", "@c.png", "d.png")
    with verdict_files.open_verdict_file(tmp_path / "v.csv") as write:
        write(verdict_files.verdict_rows(digits_detector.predict_from_scores(names, -np.arange(1.0, 6.0))))
    with (tmp_path / "v.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["'=cmd.png", "'+a.png", "'-b.png", "'@c.png", "d.png"]
    assert [row["anomaly_score"] for row in rows] == ["-1.0", "-2.0", "-3.0", "-4.0", "-5.0"]
    assert tuple(values["file"] for _, values in read_rows(tmp_path / "v.csv", ["file"])) == names


def test_an_unknown_suffix_is_rejected(tmp_path: Path) -> None:
    with (
        pytest.raises(
            SettingsError, match=r"v\.xls: a verdict file must end in \.csv, \.jsonl, \.parquet, not '\.xls'$"
        ),
        verdict_files.open_verdict_file(tmp_path / "v.xls"),
    ):
        pass


def test_without_pyarrow_parquet_is_rejected_before_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[parquet\]'"):
        verdict_files.find_writer(Path("v.parquet"))
    assert verdict_files.find_writer(Path("v.csv")) is verdict_files.csv_writer


def test_infinite_thresholds_and_unknown_p_values_are_null() -> None:
    scores = np.array([0.5, 0.7])
    verdicts = Verdicts(
        files=("a.png", "b.png"),
        anomaly_score=scores,
        p_value=np.array([np.nan, 0.2]),
        threshold=np.array([np.inf, -np.inf]),
        label=np.array([0, 1], dtype=np.int8),
    )
    first, second = verdict_files.verdict_rows(verdicts)
    assert first == {
        "file": "a.png", "anomaly_score": 0.5, "p_value": None, "threshold": None, "label": 0, "verdict": "normal"
    }  # fmt: skip
    assert (second["p_value"], second["threshold"], second["verdict"]) == (0.2, None, "anomaly")
    assert verdict_files.verdict_rows(verdicts, slice(1, 2)) == [second]


def test_map_paths_keep_the_subfolders_and_are_unique(tmp_path: Path) -> None:
    names = ["d/good/a.png", "d/good/a.jpg", "d/crack/a.png", "d/crack/b.png"]
    paths = [str(path.relative_to(tmp_path)) for path in map(verdict_files.MapPaths(tmp_path, names), names)]
    assert paths == ["good/a.png_map.png", "good/a.jpg_map.png", "crack/a_map.png", "crack/b_map.png"]


def test_a_map_file_is_grey_in_normal_regions_and_red_in_anomalous_ones(tmp_path: Path) -> None:
    image = np.full((20, 30, 1), 100, dtype=np.uint8)
    values = np.zeros((20, 30), dtype=np.float32)
    values[:, 15:] = 3.0
    verdict_files.write_map(tmp_path / "deep" / "m.png", image, values, 1.0, 255)
    with Image.open(tmp_path / "deep" / "m.png") as file:
        pixels = np.asarray(file)
    assert pixels.shape == (20, 30, 3)
    assert (pixels[:, :14] == 100).all()
    assert (pixels[:, 16:, 0] > 180).all()
    assert (pixels[:, 16:, 1] < 60).all()
