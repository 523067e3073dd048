"""A journal beside a file in the making: what is done so far, so that a run that was killed can go on."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from oddlens.errors import ArtifactError
from oddlens.io.atomic import sync_folder, translate_os_errors

SYNC_SECONDS = 5.0  # work that a power cut may cost; a kill costs the step that it interrupts

RunIdentity = dict[str, Any]


class Journal:
    """JSON lines: what the run is, then an entry a step.

    `file` has the first line, `entries` further whole ones, and nothing else.
    """

    def __init__(self, file: IO[bytes], entries: int = 0) -> None:
        self.file = file
        self.entries = entries
        self.synced = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        """The entries so far, from the first on."""
        self.file.seek(0)
        self.file.readline()
        yield from map(json.loads, self.file)

    def add(self, entry: object) -> None:
        """Write one more entry, which a kill from now on leaves there."""
        self.file.seek(0, os.SEEK_END)
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        self.entries += 1
        if time.monotonic() - self.synced > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()


def journal_path(path: Path) -> Path:
    """Where the journal of a file in the making is: beside it."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def open_journal(path: Path | None, run: RunIdentity, resume: bool) -> Iterator[Journal]:
    """Give the journal at `path`, which is taken away when the block ends well or nothing was entered.

    With `resume` it has the entries of an earlier run, if there was one; else it begins anew. Without a path it is
    kept nowhere. `run` says in JSON what has to be the same for one run to go on after another, by the names that an
    error calls it.

    Raises:
        ArtifactError: the earlier run was another one, or its journal is none; or it is still running.
        OddlensError: the file cannot be written.
    """
    if path is None:
        with translate_os_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
            yield _begun(file, run)
        return
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _take(file, path)
            journal = _resumed(file, run, path) if resume and file.tell() else _begun(file, run)
            try:
                yield journal
            except BaseException:
                if not journal.entries:
                    path.unlink()
                raise
        path.unlink()
        sync_folder(path.parent)


def _take(file: IO[bytes], path: Path) -> None:
    """Keep other runs away until the file is closed, or the process killed; on Windows, nothing does."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(f"{path}: another run is writing it; wait until that ends, or give another -o") from None
    except OSError:
        return  # some network drives know no locks


def _begun(file: IO[bytes], run: RunIdentity) -> Journal:
    file.truncate(0)
    file.write(json.dumps(run).encode() + b"\n")
    file.flush()
    return Journal(file)


def _resumed(file: IO[bytes], run: RunIdentity, path: Path) -> Journal:
    """The journal as far as it is whole: a line that a kill or a power cut tore, and what follows, is cut off."""
    file.seek(0)
    earlier = _line(file.readline())
    if not isinstance(earlier, dict) or earlier.keys() != run.keys():
        raise ArtifactError(f"{path}: is no journal of such a run; move it away, or leave --resume out to replace it")
    other = [name for name in run if run[name] != earlier[name]]
    if other:
        raise ArtifactError(
            f"{path}: is of a run with another {', another '.join(other)}; give what that run was given, or leave "
            "--resume out to begin anew"
        )
    entries, end = 0, file.tell()
    while _line(file.readline()) is not None:
        entries, end = entries + 1, file.tell()
    file.truncate(end)
    return Journal(file, entries)


def _line(line: bytes) -> Any:
    """What a line says; None if it is torn."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
