"""Writing files so that a crash, a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from oddlens.errors import OddlensError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Give a binary file to write to; `path` becomes that file only when the block ends well.

    The bytes go to a temporary file in the same folder, are synced to disk and then renamed, and the
    folder is synced, so that `path` is at any moment either the old file or the whole new one.

    Raises:
        OddlensError: the file cannot be written (no such folder, no permission, disk full).
    """
    temporary: str | None = None
    try:
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".oddlens-", suffix=".partial")
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
            temporary = None
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path` in one step; see `replacing`."""
    with atomic_write(path) as file:
        file.write(content)
    return path


@contextlib.contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Make an OddlensError of what the file system says while `path` is written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OddlensError(f"{path}: cannot be written ({reason}); free some space or choose another place") from error


def _umask() -> int:
    """The process's file mode mask (only readable by setting it)."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
