"""Atomic file writes: a crash, a kill or a full disk never leaves a partial file behind."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from oddlens.errors import DiskFullError, OddlensError

PARTIAL_FILES = ".oddlens-*.partial"  # pattern of the temporary files, which only a kill leaves behind
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none for this user


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the block ends without an error.

    The bytes go to a temporary file in the same folder, are synced to disk and then renamed, and the
    folder is synced, so that at any moment `path` is either the old file or the complete new one.

    Raises:
        DiskFullError: the disk has no room for it.
        OddlensError: the file cannot be written for another reason (no permission).
    """
    target = Path(os.path.realpath(path))  # a link stays, and the file that it names is replaced
    temporary = target.parent / f".oddlens-{secrets.token_hex(8)}.partial"
    try:
        with translate_os_errors(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # not by tempfile, whose files are private to the user
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path` atomically and return `path`; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(content)
    return path


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Raise any OSError in the block as an OddlensError about writing `path`; a DiskFullError if there is no room."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise (DiskFullError if error.errno in FULL else OddlensError)(
            f"{path}: cannot be written ({reason}); free some space or choose another location"
        ) from error


def sync_folder(folder: Path) -> None:
    """Sync a folder so that a rename in it survives a power cut, on systems that can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
