"""What `score` does beyond verdicts one by one: many images at once, and a stream that is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector


def score(*arguments: object) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "oddlens", "score", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def part(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("score") / "part.safetensors")


@pytest.fixture(scope="module")
def pictures(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits, then 60 negatives of them, as files whose names give the order."""
    folder = tmp_path_factory.mktemp("pictures")
    test = digits.test.load(digits.test.choose_spec(None))[:60]
    for i, pixels in enumerate(np.concatenate([test, 255 - test])):
        Image.fromarray(pixels[..., 0]).save(folder / f"{i:03}.png")
    return folder


def test_many_at_once_are_flagged_by_their_own_threshold(part: Path, pictures: Path, tmp_path: Path) -> None:
    result, _ = score(part, pictures, "--fdr", 0.05, "-o", tmp_path / "v.jsonl", "--maps", tmp_path / "maps")
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).stem for row in rows] == [f"{i:03}" for i in range(120)]
    assert {row["threshold"] for row in rows} == {result["threshold"]}
    assert all(row["label"] == (row["anomaly_score"] > row["threshold"]) for row in rows)
    flagged = [row["label"] for row in rows]
    assert sum(flagged[60:]) == 60
    assert result["n_anomalous"] == sum(flagged) <= 66
    assert result["false_discovery_rate"] == 0.05
    assert "false_alarm_rate" not in result
    assert len(list((tmp_path / "maps").iterdir())) == 120


def test_where_nothing_can_be_flagged_it_says_so(part: Path, pictures: Path) -> None:
    result, told = score(part, *sorted(pictures.iterdir())[:60], "--fdr", 0.0001)
    assert result["n_anomalous"] == 0
    assert result["threshold"] is None
    assert all(row["threshold"] is None for row in result["verdicts"])
    assert "too few for a false discovery rate of 0.0001" in told
    assert "at least 9999" in result["notes"][0]
    several, _ = score(part, pictures, "--fdr", 0.01)
    assert "flags none unless" in several["notes"][0]


def test_a_watched_stream_goes_on_and_raises_the_alarm(part: Path, pictures: Path, tmp_path: Path) -> None:
    files, state = sorted(pictures.iterdir()), tmp_path / "line.json"
    first, told = score(part, *files[:60], "--watch-drift", state)
    assert first["drift"]["alarm"] is False
    assert first["drift"]["n"] == 60
    assert "no drift" in told
    with Image.open(state.with_suffix(".png")) as picture:
        assert picture.size[0] > 600
    second, told = score(part, *files[60:], "--watch-drift", state)
    found = second["drift"]
    assert found["alarm"] is True
    assert found["n"] == 120
    assert 60 <= found["alarm_at"] < 80
    assert set(found["drivers"]) <= {str(file) for file in files[60:]}
    assert str(files[found["alarm_at"]]) in told
    at_once, _ = score(part, *files, "--watch-drift", tmp_path / "other.json")
    assert at_once["drift"]["evidence"] == pytest.approx(found["evidence"], rel=1e-12)


def test_a_state_that_is_none_is_refused_before_anything_is_scored(part: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text("{}")
    command = [sys.executable, "-m", "oddlens", "score", part, pictures, "--watch-drift", tmp_path / "line.json"]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "v.csv")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "is not a drift state" in done.stderr
    assert not (tmp_path / "v.csv").exists()
