"""A journal next to an unfinished output file: the completed steps, so that an interrupted run can resume."""

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

SYNC_SECONDS = 5.0  # of work that a power cut may lose; a kill loses only the interrupted step

RunIdentity = dict[str, Any]
MARK = {"written by": "oddlens"}  # in the first line of every journal


class Journal:
    """JSON lines: the identity of the run, then one entry per step.

    `file` contains that first line and `entries` further complete lines, and nothing else.
    """

    def __init__(self, file: IO[bytes], entries: int = 0) -> None:
        self.file = file
        self.entries = entries
        self.last_sync = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the entries, oldest first."""
        self.file.seek(0)
        self.file.readline()
        yield from map(json.loads, self.file)

    def add(self, entry: object) -> None:
        """Append an entry; once this returns, it survives a kill of the process."""
        self.file.seek(0, os.SEEK_END)
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        self.entries += 1
        if time.monotonic() - self.last_sync > SYNC_SECONDS:
            os.fsync(self.file.fileno())
            self.last_sync = time.monotonic()


def journal_path(path: Path) -> Path:
    """Path of the journal of an output file: next to it, with the suffix `.partial`."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def open_journal(path: Path | None, run: RunIdentity, resume: bool) -> Iterator[Journal]:
    """Open the journal at `path`; it is deleted when the block succeeds, or fails before the first entry.

    With `resume` it contains the entries of an interrupted run, if there was one; otherwise it starts empty. Without a
    path it is a temporary file. `run` identifies the run: JSON values that must be equal for a run to resume another,
    by the names that the error message uses.

    Raises:
        ArtifactError: the journal belongs to a different run, is not a journal, or its run is still in progress.
        OddlensError: the file cannot be written.
    """
    if path is None:
        with translate_os_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
            yield _start(file, run)
        return
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(path) as file:
            _refuse_foreign(file, path)
            has_content = file.seek(0, os.SEEK_END) > 0
            journal = _resume(file, run, path) if resume and has_content else _start(file, run)
            try:
                yield journal
            except BaseException:
                if not journal.entries:
                    path.unlink(missing_ok=True)
                raise
            path.unlink(missing_ok=True)  # while it is locked, so that it is not another run's
        sync_folder(path.parent)


def _open_locked(path: Path) -> IO[bytes]:
    """Open and lock a journal; one that another run removed in between is opened anew."""
    while True:
        file = path.open("a+b")
        try:
            _lock(file, path)
            if os.fstat(file.fileno()).st_nlink:
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[bytes], path: Path) -> None:
    """Lock the file against other runs until it is closed or the process ends; Windows has no lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArtifactError(
            f"{path}: another run is writing this file; wait for it to finish, or choose another output with -o"
        ) from None
    except OSError:
        return  # some network drives have no locks


def _refuse_foreign(file: IO[bytes], path: Path) -> None:
    """Refuse a file that is no journal; an empty one is that of a run which was killed at its very start."""
    beginning = json.dumps(MARK).encode()[:-1]
    file.seek(0)
    if not beginning.startswith(file.read(len(beginning))):
        raise ArtifactError(f"{path}: is not a journal of oddlens and would be replaced; move it away")


def _start(file: IO[bytes], run: RunIdentity) -> Journal:
    file.truncate(0)
    file.write(json.dumps(MARK | run).encode() + b"\n")
    file.flush()
    return Journal(file)


def _resume(file: IO[bytes], run: RunIdentity, path: Path) -> Journal:
    """Read the journal up to its last complete line; truncate a line torn by a kill or a power cut and what follows."""
    file.seek(0)
    previous = _parse_line(file.readline())
    if not isinstance(previous, dict) or previous.keys() != (MARK | run).keys():
        raise ArtifactError(f"{path}: is not a journal for this run; move it away, or omit --resume to replace it")
    differences = [name for name in run if run[name] != previous[name]]
    if differences:
        raise ArtifactError(
            f"{path}: belongs to a run with a different {', a different '.join(differences)}; repeat that run's "
            "arguments, or omit --resume to start over"
        )
    entries, end = 0, file.tell()
    while _parse_line(file.readline()) is not None:
        entries, end = entries + 1, file.tell()
    file.truncate(end)
    return Journal(file, entries)


def _parse_line(line: bytes) -> Any:
    """Parse a line; None if it is incomplete or not JSON."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
