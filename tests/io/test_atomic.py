"""Atomic writes: a file is complete or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from oddlens.errors import DiskFullError, OddlensError
from oddlens.io.atomic import atomic_write, write_bytes


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.txt", b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        assert file.write(b"half of the new") / 0
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_successful_block_replaces_the_file(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.txt", b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_missing_folders_are_created_and_permissions_are_the_default_ones(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "deep" / "er" / "a.txt", b"x")
    ordinary = tmp_path / "ordinary.txt"
    ordinary.write_bytes(b"x")
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_the_file_mode_mask_of_the_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may create a file at any moment, or write one atomically, too."""

    def umask(mask: int) -> int:
        raise AssertionError("the mask of the whole process was changed")

    monkeypatch.setattr(os, "umask", umask)
    write_bytes(tmp_path / "a.txt", b"x")


def test_a_path_that_cannot_be_written_raises_an_oddlens_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OddlensError, match=r"folder: cannot be written .*free some space or choose another location"):
        write_bytes(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("code", "is_full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_disk_without_room_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_full: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OddlensError, match="cannot be written") as raised:
        write_bytes(tmp_path / "a.txt", b"x")
    assert isinstance(raised.value, DiskFullError) == is_full
    assert list(tmp_path.iterdir()) == []
