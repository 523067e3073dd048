"""Files by their content: each lies under its SHA-256, once, and is complete or not there."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from oddlens.errors import ArtifactError, StoreError
from oddlens.io.atomic import sync_folder, translate_os_errors, write_bytes
from oddlens.io.own_files import MARKER
from oddlens.io.own_folder import read_marker, write_marker

STALE_SECONDS = 3600  # after which a file that is still being written was left by a process that was killed

_FOLDER, _NAME = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{62}")
_UNFINISHED = re.compile(r"\.oddlens-[0-9a-f]+\.partial")  # of io.atomic


def sha256(content: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class ContentFolder:
    """A folder with files `sha256/ab/cdef...`, of one store alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "sha256"

    def claim(self, store_id: str, is_new: bool) -> None:
        """Make sure that this is the folder of the store, and make it where the store has no files yet.

        Raises:
            StoreError: it belongs to another store or has other files, or the files of the store are somewhere else.
            OddlensError: it cannot be made.
        """
        owner = read_marker(self.folder).get("store")
        if owner == store_id:
            return
        with translate_os_errors(self.folder):
            names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
            if owner is not None or any(not _UNFINISHED.fullmatch(name) for name in names):
                raise StoreError(f"{self.folder}: has files that are not of this store; give another folder (?files=)")
            if not is_new:
                raise StoreError(f"{self.folder}: the store's files are not here; is a disk missing? (?files=)")
        write_marker(self.folder, {"store": store_id})
        sync_folder(self.folder.parent)

    def path(self, digest: str) -> Path:
        """Where the content with this SHA-256 lies."""
        return self.root / digest[:2] / digest[2:]

    def write(self, content: bytes, digest: str) -> None:
        """Write a content, unless it is there; when this returns, it is on disk.

        Raises:
            DiskFullError: there is no room for it.
            OddlensError: it cannot be written for another reason.
        """
        path = self.path(digest)
        with translate_os_errors(path):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size == len(content):
                    return
            if not (self.folder / MARKER).exists():  # a disk was unmounted: its empty mount point takes files, too
                raise StoreError(f"{self.folder}: the store's files are no longer here; is a disk missing?")
            for folder in (self.root, path.parent):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    sync_folder(folder.parent)
        write_bytes(path, content)

    def read(self, digest: str) -> bytes:
        """The content with this SHA-256.

        Raises:
            ArtifactError: it is missing, or not what was written.
        """
        path = self.path(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); restore it from a backup") from error
        if sha256(content) != digest:
            raise ArtifactError(f"{path}: is not what was written; restore it from a backup")
        return content

    def remove(self, digest: str) -> None:
        """Remove a content; nothing happens where it is not there."""
        with translate_os_errors(self.path(digest)):
            self.path(digest).unlink(missing_ok=True)

    def folders(self) -> list[Path]:
        """The folders in which contents lie."""
        return sorted(path for path in self.root.glob("*") if _FOLDER.fullmatch(path.name) and path.is_dir())

    def digests(self, folder: Path) -> Iterator[str]:
        """The SHA-256 of each content in one of the `folders`."""
        return (folder.name + path.name for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name))

    def stale(self, folder: Path) -> Iterator[Path]:
        """Files in one of the `folders` that a killed process did not finish."""
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if _UNFINISHED.fullmatch(path.name) and path.stat().st_mtime < time.time() - STALE_SECONDS:
                    yield path
