"""Outputs that cannot be written, or would become data, are refused before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oddlens.errors import OddlensError, SettingsError
from oddlens.io.paths import check_output, check_outside_data, expand_home


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_that_can_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    for name in ("old.csv", "new.csv", "deep/er/new.csv"):
        check_output(tmp_path / name)
    assert entries(tmp_path) == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "is a folder, so no file can be written under this name"),
        ("file/x.csv", "cannot be written"),
        ("file/deeper/x.csv", "Not a directory"),
        ("broken/x.csv", "is not a folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to("nowhere")
    before = entries(tmp_path)
    with pytest.raises(OddlensError, match=reason):
        check_output(tmp_path / name)
    assert entries(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_a_file_system_that_takes_no_files_is_refused() -> None:
    with pytest.raises(OddlensError, match="cannot be written"):
        check_output(Path("/proc/part.safetensors"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OddlensError, match="Permission denied"):
        check_output(tmp_path / "x.csv")


def test_an_output_that_is_an_input_is_refused_under_any_name(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("file,camera\n")
    (tmp_path / "link.csv").symlink_to(table)
    for name in ("groups.csv", "link.csv", "./groups.csv"):
        with pytest.raises(SettingsError, match="is read by this command and would be replaced"):
            check_output(tmp_path / name, inputs=["missing.png", table])
    check_output(tmp_path / "other.csv", inputs=[table])


def test_a_link_to_another_kind_of_file_or_to_nowhere_writable_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("the user's")
    (tmp_path / "file").write_text("")
    for name, target, reason in (("v.csv", "a.png", "is a link to"), ("w.csv", "file/w.csv", "cannot be written")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(OddlensError, match=reason):
            check_output(tmp_path / name)
    (tmp_path / "x.csv").symlink_to(tmp_path / "elsewhere.csv")
    check_output(tmp_path / "x.csv")


def test_pages_and_images_are_refused_in_a_folder_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts/good").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "parts")
    monkeypatch.chdir(tmp_path)
    for path in (
        "parts",
        "parts/report.html",
        "parts/good/maps",
        "link/report.html",
        "parts/../parts/x",
        "parts/new/x",
    ):
        with pytest.raises(SettingsError, match="lies in parts, which is read as data"):
            check_outside_data(Path(path), ["digits", "parts"])
    for path in ("report.html", "parts.html", "parts2/report.html", "parts/../report.html"):
        check_outside_data(Path(path), ["digits", "parts", "parts/good/a.png"])
    monkeypatch.chdir(tmp_path / "parts")
    with pytest.raises(SettingsError, match=r"report\.html: lies in \., which"):
        check_outside_data(Path("report.html"), ["."])


def test_the_home_folder_is_expanded_only_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/eva")
    assert [expand_home(path) for path in ("~", "~/a", "./~/a", "a/~", "./a")] == [
        "/home/eva", "/home/eva/a", "./~/a", "a/~", "./a"
    ]  # fmt: skip
    assert expand_home("~no-such-user/a") == "~no-such-user/a"
