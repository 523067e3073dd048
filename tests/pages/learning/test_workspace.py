"""The workspace: where it lies, whose it is, and which versions are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oddlens.errors import ArtifactError, DataNotFoundError, OddlensError, SettingsError
from oddlens.pages.learning.workspace import Workspace, ids, read_json, workspace_folder, write_json


def test_it_lies_beside_the_files_of_the_store(tmp_path: Path) -> None:
    assert workspace_folder(tmp_path / "parts.db.files") == tmp_path / "parts.db.learning"
    assert workspace_folder(tmp_path / "shared") == tmp_path / "shared.learning"


def test_it_is_opened_again_with_what_is_in_it(tmp_path: Path) -> None:
    first = Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    (first.jobs / ("0" * 16)).mkdir()
    second = Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    assert [path.name for path in second.jobs.iterdir()] == ["0" * 16]


def test_nothing_is_written_below_the_root(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="read as data"):
        Workspace.open(tmp_path / "s.learning", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.learning").mkdir()
    (tmp_path / "s.learning/holiday.jpg").write_bytes(b"x")
    with pytest.raises(SettingsError, match="has files that are not of engineers' work"):
        Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    assert [path.name for path in (tmp_path / "s.learning").iterdir()] == ["holiday.jpg"]


def test_a_workspace_of_another_version_is_refused_in_words(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    (workspace.folder / ".oddlens.json").write_text(json.dumps({"learning": 2}))
    with pytest.raises(ArtifactError, match=r"written by another version of oddlens \(its format is 2"):
        Workspace.open(tmp_path / "s.learning", tmp_path / "photos")


@pytest.mark.parametrize("name", ["", "..", "../jobs", "0" * 15, "0" * 17, "g" * 16, "0" * 16, "0" * 16 + "\n"])
def test_only_ids_of_folders_that_are_there_open_one(tmp_path: Path, name: str) -> None:
    workspace = Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    for opener in (workspace.job, workspace.project):
        with pytest.raises(DataNotFoundError, match="choose one of the list"):
            opener(name)


def test_values_survive_and_their_version_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "caf\udce9 <b>"})
    assert read_json(path) == {"name": "caf\udce9 <b>"}
    assert read_json(tmp_path / "none.json") == {}
    path.write_text('{"version": 9}')
    with pytest.raises(ArtifactError, match="another version"):
        read_json(path)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_file_is_an_error_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(OddlensError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_only_complete_folders_have_ids(tmp_path: Path) -> None:
    for name in ("b" * 16, "a" * 16, "c" * 16, "other"):
        (tmp_path / name).mkdir()
        if name != "c" * 16:
            (tmp_path / name / "job.json").touch()
    assert ids(tmp_path, "job.json") == ["a" * 16, "b" * 16]
