"""Paths that users give: the home folder, and outputs that are refused before any work rather than after it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from oddlens.errors import OddlensError, SettingsError
from oddlens.io.atomic import translate_os_errors


def expand_home(path: str) -> str:
    """The path with a "~" at its start as the home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib would drop a "./" that the user wrote


def check_output(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that a file can be written, by writing a temporary one beside it; folders that are missing may be made.

    Raises:
        OddlensError: the file cannot be written: its name is a folder's, or its folder takes no files.
        SettingsError: it is one of the `inputs`, which would be lost.
    """
    with translate_os_errors(path):
        if path.is_dir():
            raise OddlensError(f"{path}: is a folder, so no file can be written under this name; choose another name")
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # refuses names that are too long, and paths through a file
        target = Path(os.path.realpath(path))
        for folder in {path.parent, target.parent}:
            check_writable_folder(folder)
    if target.suffix != path.suffix:
        raise SettingsError(f"{path}: is a link to {target}, which would be replaced; choose another output")
    for source in inputs:
        with contextlib.suppress(OSError):
            if path.samefile(source):
                raise SettingsError(f"{path}: is read by this command and would be replaced; choose another output")


def check_writable_folder(folder: Path) -> None:
    """Check that files can be written into a folder, or into a folder that is made there.

    Raises:
        OSError: they cannot.
    """
    while not os.path.lexists(folder) and folder.parent != folder:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(None, f"{folder} is not a folder")
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_outside_data(path: Path, sources: Iterable[str | Path]) -> None:
    """Refuse images, maps, figures and pages in a folder that is read as data, where they would become data.

    Raises:
        SettingsError: `path` is one of the folders among `sources`, or below one.
    """
    target = Path(os.path.realpath(path))
    for source in (expand_home(str(source)) for source in sources):
        folder = Path(os.path.realpath(source))
        if folder.is_dir() and target.is_relative_to(folder):
            raise SettingsError(
                f"{path}: lies in {source}, which is read as data, so that it would be read as data too; write it to a "
                "folder outside"
            )
