"""Folders of oddlens's own files: a marker lists what oddlens wrote there, and nothing else is replaced or removed."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oddlens.errors import ArtifactError, SettingsError
from oddlens.io.atomic import translate_os_errors, write_bytes
from oddlens.io.digests import digest
from oddlens.io.own_files import MARKER, is_own_png
from oddlens.io.paths import check_writable_folder

WORK_SUFFIX = ".training"  # of the working folder of a fit: <output's stem>.<run's id>.training
HISTORY, CHECKPOINTS = "history.jsonl", "checkpoints"
TRAINING_FILES = (HISTORY, CHECKPOINTS)

_TRAINING_FILE = re.compile(r"history\.jsonl|epoch-\d{6}\.safetensors|\.oddlens-[0-9a-f]{16}\.partial")


def claim(folder: Path, names: Sequence[str]) -> None:
    """Make files oddlens's own from now on, whatever their content, just before they are written.

    Raises:
        SettingsError, OddlensError: as `check_claim`.
    """
    check_claim(folder, names)
    marker = read_marker(folder)
    write_marker(folder, marker | {"files": marker.get("files", {}) | dict.fromkeys(names, "")})


def check_claim(folder: Path, names: Sequence[str]) -> None:
    """Check that files and folders of these names may be written in `folder`; nothing is changed.

    The marker has the digest of each file that oddlens completed (`record`), so that a file that somebody changed or
    replaced is not oddlens's any more. Of a folder, all PNG files must be oddlens's.

    Raises:
        SettingsError: there is already one that oddlens did not write.
        OddlensError: the folder cannot be written to.
    """
    with translate_os_errors(folder):
        check_writable_folder(folder)
    files: dict[str, str] = read_marker(folder).get("files", {})
    for name in names:
        problem = foreign_file(folder / name, files.get(name))
        if problem is not None:
            raise SettingsError(
                f"{problem}: was not written by oddlens, or was changed since, and would be replaced; move it away, or "
                "choose another folder"
            )


def foreign_file(path: Path, own_digest: str | None) -> Path | None:
    """The file at or below `path` that oddlens did not write; None where there is none.

    `own_digest` is what the marker says about `path`: None if nothing, "" if its content was still changing.
    """
    if not os.path.lexists(path):
        return None
    if own_digest is None:
        return path
    if path.is_dir():
        return next((image for image in sorted(path.rglob("*.png")) if not is_own_png(image)), None)
    return None if own_digest in ("", file_digest(path)) else path


def record(folder: Path, names: Sequence[str]) -> None:
    """Note the digests of files that oddlens completed; those that do not exist are no longer oddlens's."""
    marker = read_marker(folder)
    files: dict[str, str] = marker.get("files", {})
    for name in names:
        path = folder / name
        files.pop(name, None)
        if path.exists():
            files[name] = "" if path.is_dir() else file_digest(path)
    write_marker(folder, marker | {"files": files})


def file_digest(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb") as file:
        return digest(iter(lambda: file.read(2**20), b""))


def read_marker(folder: Path) -> dict[str, Any]:
    """The content of a folder's marker; empty where there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    path = folder / MARKER
    try:
        marker = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is damaged or cannot be read; choose another folder") from error
    if not isinstance(marker, dict) or not isinstance(marker.get("files", {}), dict):
        raise ArtifactError(f"{path}: was not written by oddlens; choose another folder")
    return marker


def write_marker(folder: Path, marker: dict[str, Any]) -> None:
    """Write a folder's marker."""
    write_bytes(folder / MARKER, json.dumps(marker, indent=1).encode())


def make_working_folder(output: Path) -> Path:
    """Make a folder for a run that will write `output`, named after it and with a new id.

    Raises:
        OddlensError: it cannot be made.
    """
    with translate_os_errors(output):
        folder = output.with_name(f"{output.stem}.{secrets.token_hex(4)}{WORK_SUFFIX}")
        folder.mkdir(parents=True)
    write_marker(folder, {"output": output.name})
    return folder


def find_working_folders(output: Path) -> list[Path]:
    """The folders of interrupted runs for `output`, the newest first; those of runs in progress are not among them."""
    ages: dict[Path, float] = {}
    with translate_os_errors(output):
        candidates = list(output.parent.glob(f"{glob.escape(output.stem)}.*{WORK_SUFFIX}"))
    for path in candidates:
        with contextlib.suppress(ArtifactError, OSError), lock(path) as is_free:  # somebody else's may be unreadable
            if is_free and is_working_folder(path) and read_marker(path).get("output") == output.name:
                ages[path] = (path / MARKER).stat().st_mtime
    return sorted(ages, key=ages.__getitem__, reverse=True)


def is_working_folder(folder: Path) -> bool:
    """Whether oddlens made a folder for the checkpoints of a fit."""
    return folder.name.endswith(WORK_SUFFIX) and (folder / MARKER).is_file()


def remove_working_folder(folder: Path) -> None:
    """Remove what training wrote to a marked folder, and the folder unless there is something else in it."""
    if not is_working_folder(folder):
        return
    below = list((folder / CHECKPOINTS).rglob("*"))
    own = [path for path in below if _TRAINING_FILE.fullmatch(path.name) and not path.is_dir()]
    for path in [*own, folder / HISTORY, folder / MARKER]:
        path.unlink(missing_ok=True)
    subfolders = sorted((path for path in below if path.is_dir()), reverse=True)
    for path in [*subfolders, folder / CHECKPOINTS, folder]:  # the deepest first
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends; False where another run has it. Windows has no lock."""
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lock_descriptor(descriptor)
    finally:
        os.close(descriptor)


def lock_descriptor(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file or folder; False where another has it. The lock ends with the last copy of the descriptor.

    A `shared` lock excludes none but those that are not shared. Where there are no locks, as on Windows and some
    network drives, it is True.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process has locked a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return not lock_descriptor(descriptor, shared=True)
    finally:
        os.close(descriptor)
