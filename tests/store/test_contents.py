"""Files by content: complete or not there, and of one store alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from oddlens.errors import ArtifactError, StoreError
from oddlens.store.contents import STALE_SECONDS, ContentFolder, sha256


@pytest.fixture
def files(tmp_path: Path) -> ContentFolder:
    """A folder of contents that a store has claimed."""
    folder = ContentFolder(tmp_path / "files")
    folder.claim("this store", is_new=True)
    return folder


def test_a_content_lies_under_its_sha256_once(files: ContentFolder) -> None:
    digest = sha256(b"abc")
    files.write(b"abc", digest)
    path = files.folder / "sha256" / "ba" / "7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.path(digest) == path
    assert files.read(digest) == b"abc"
    number = path.stat().st_ino
    files.write(b"abc", digest)
    assert path.stat().st_ino == number
    assert list(files.digests(path.parent)) == [digest]
    files.remove(digest)
    files.remove(digest)
    assert not path.exists()


def test_a_file_that_is_cut_short_is_written_again(files: ContentFolder) -> None:
    digest = sha256(b"abc")
    files.write(b"abc", digest)
    files.path(digest).write_bytes(b"ab")
    files.write(b"abc", digest)
    assert files.read(digest) == b"abc"


def test_what_was_not_written_so_is_not_returned(files: ContentFolder) -> None:
    digest = sha256(b"abc")
    files.write(b"abc", digest)
    files.path(digest).write_bytes(b"abd")
    with pytest.raises(ArtifactError, match="is not what was written"):
        files.read(digest)
    files.remove(digest)
    with pytest.raises(ArtifactError, match="cannot be read"):
        files.read(digest)


def test_files_and_the_folders_that_they_need_are_synced(
    files: ContentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[str]()
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").resolve()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    files.write(b"abc", sha256(b"abc"))
    folder = files.path(sha256(b"abc")).parent
    assert synced[:2] == [str(files.folder), str(files.root)]
    assert ".partial" in synced[2]
    assert synced[3:] == [str(folder)]


def test_the_folder_of_another_store_is_refused(files: ContentFolder) -> None:
    files.claim("this store", is_new=False)
    for is_new in (True, False):
        with pytest.raises(StoreError, match="has files that are not of this store"):
            files.claim("another store", is_new=is_new)


def test_a_folder_with_somebodys_files_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    with pytest.raises(StoreError, match="has files that are not of this store"):
        ContentFolder(tmp_path).claim("this store", is_new=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_is_claimed_by_a_process_that_was_killed_before(tmp_path: Path) -> None:
    (tmp_path / ".oddlens-0123456789abcdef.partial").write_bytes(b"")
    files = ContentFolder(tmp_path)
    files.claim("this store", is_new=True)
    assert files.folders() == []
    files.write(b"abc", sha256(b"abc"))
    assert files.read(sha256(b"abc")) == b"abc"


def test_a_folder_that_is_missing_is_not_begun_anew(files: ContentFolder) -> None:
    shutil.rmtree(files.folder)
    with pytest.raises(StoreError, match="the store's files are not here; is a disk missing"):
        files.claim("this store", is_new=False)
    with pytest.raises(StoreError, match="no longer here; is a disk missing"):
        files.write(b"abc", sha256(b"abc"))
    assert not files.folder.exists()


def test_only_old_files_are_stale_and_only_contents_are_contents(files: ContentFolder) -> None:
    digest = sha256(b"abc")
    files.write(b"abc", digest)
    (folder,) = files.folders()
    for name in (".oddlens-0123.partial", ".oddlens-4567.partial", "notes.txt"):
        (folder / name).write_bytes(b"")
    old = (folder / ".oddlens-0123.partial").stat().st_mtime - STALE_SECONDS - 60
    os.utime(folder / ".oddlens-0123.partial", (old, old))
    (files.root / "other").mkdir()
    assert [path.name for path in files.stale(folder)] == [".oddlens-0123.partial"]
    assert list(files.digests(folder)) == [digest]
    assert files.folders() == [folder]
