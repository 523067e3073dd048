"""`oddlens manifest`: lists images, says what it leaves out, and refuses what it cannot do in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import error_of, invoke
from typer.testing import CliRunner

from oddlens.batch.image_manifest import ImageManifest
from oddlens.batch.remote_files import open_filesystem
from oddlens.cli import app
from oddlens.errors import DataNotFoundError, MissingExtraError, OddlensError, SettingsError


def test_a_folder_is_listed_and_what_is_left_out_is_said(
    digit_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (digit_files / "notes.txt").write_text("not an image")
    path = tmp_path_factory.mktemp("list") / "m.parquet"
    done = invoke("manifest", digit_files, "-o", path, "--json")
    result = json.loads(done.stdout)
    size = sum(file.stat().st_size for file in digit_files.glob("*.png"))
    assert (result["n"], result["bytes"], result["files"]) == (150, size, {"manifest": str(path)})
    assert result["left_out"] == {"not an image": [str(digit_files / "notes.txt")]}
    assert "left out, not an image" in done.stderr
    assert ImageManifest(path).n_images == 150


def test_a_url_is_listed(tmp_path: Path) -> None:
    filesystem, _ = open_filesystem("memory://")
    filesystem.pipe("/line/a.png", b"content")
    result = invoke("manifest", "memory://line", "-o", tmp_path / "m.parquet")
    filesystem.rm("/line", recursive=True)
    assert "1 images" in result.stdout
    (shard,) = ImageManifest(tmp_path / "m.parquet").shards(10)
    assert shard.files == ("memory:///line/a.png",)


def test_groups_are_those_of_folders(digit_files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("list") / "m.parquet"
    invoke("manifest", digit_files, "-o", path, "--group-by", "folder")
    assert ImageManifest(path).groups == (digit_files.name,)


@pytest.mark.parametrize(
    ("source", "output", "error", "problem"),
    [
        (".", "m.csv", SettingsError, "manifests end in .parquet"),
        ("none", "m.parquet", DataNotFoundError, "does not exist"),
        ("nonsense://a", "m.parquet", OddlensError, "nonsense://a"),
        (".", "m.parquet", DataNotFoundError, "contains no images"),
    ],
)
def test_what_cannot_be_listed_is_refused_and_nothing_is_written(
    source: str, output: str, error: type[OddlensError], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=problem):
        invoke("manifest", source, "-o", output)
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_required() -> None:
    assert "Missing option" in CliRunner().invoke(app, ["manifest", "."]).stderr


def test_the_extra_is_named_where_it_is_missing(digit_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[batch\]'"):
        invoke("manifest", digit_files, "-o", digit_files.parent / "m.parquet")


def test_a_missing_folder_is_one_line_on_stderr(tmp_path: Path) -> None:
    assert "does not exist" in error_of("manifest", tmp_path / "none", "-o", tmp_path / "m.parquet")
