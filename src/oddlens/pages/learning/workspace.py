"""The workspace: a folder beside the store's files with what engineers uploaded, their projects and their jobs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError
from oddlens.io.atomic import translate_os_errors, write_bytes
from oddlens.io.own_folder import is_locked, lock, read_marker, write_marker
from oddlens.io.paths import check_outside_data

VERSION = 1  # of all that is written here
FILES_SUFFIX, WORKSPACE_SUFFIX = ".files", ".learning"

_ID = re.compile(r"[0-9a-f]{16}")


def workspace_folder(store_files: Path) -> Path:
    """Where the workspace of a store lies, whose files are in the folder `store_files`.

    >>> workspace_folder(Path("parts.db.files")).name
    'parts.db.learning'
    """
    return store_files.with_name(store_files.name.removesuffix(FILES_SUFFIX) + WORKSPACE_SUFFIX)


class Workspace:
    """The folders of uploads, projects and jobs of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads, self.projects, self.jobs = (folder / name for name in ("uploads", "projects", "jobs"))

    @classmethod
    def open(cls, folder: Path, root: Path) -> Workspace:
        """Open the workspace in `folder`, or make it; nothing is ever written below `root`.

        Raises:
            SettingsError: it lies below `root`, has files of others, or its disk has no locks.
            ArtifactError: another version of oddlens made it, or it is damaged.
            OddlensError: it cannot be written.
        """
        check_outside_data(folder, [root])
        marker = read_marker(folder)
        with translate_os_errors(folder):
            is_new = not folder.exists() or not any(folder.iterdir())
            if not is_new and "learning" not in marker:
                raise SettingsError(f"{folder}: has files that are not of engineers' work; move them, or the store")
            if not is_new:
                check_version(marker.get("learning"), folder)
            workspace = cls(Path(os.path.realpath(folder)))
            for path in (workspace.uploads, workspace.projects, workspace.jobs):
                path.mkdir(parents=True, exist_ok=True)
        if is_new:
            write_marker(folder, {"learning": VERSION})
        with lock(workspace.jobs) as is_free:
            if is_free and not is_locked(workspace.jobs):
                raise SettingsError(f"{folder}: this disk has no file locks, by which jobs are found; move the store")
        return workspace

    @classmethod
    def find(cls, folder: Path) -> Workspace | None:
        """The workspace in `folder`, if there is one.

        Raises:
            ArtifactError: another version of oddlens made it.
        """
        marker = read_marker(folder)
        if "learning" not in marker:
            return None
        check_version(marker["learning"], folder)
        return cls(Path(os.path.realpath(folder)))

    def project(self, project_id: str) -> Path:
        """The folder of a project.

        Raises:
            DataNotFoundError: there is no such project.
        """
        return existing(self.projects, project_id, "project", "project.json")

    def job(self, job_id: str) -> Path:
        """The folder of a job.

        Raises:
            DataNotFoundError: there is no such job.
        """
        return existing(self.jobs, job_id, "job", "job.json")


def existing(parent: Path, name: str, what: str, file: str) -> Path:
    """A folder by its id, which has a file.

    Raises:
        DataNotFoundError: it is no id, or there is no such folder.
    """
    if not _ID.fullmatch(name) or not (parent / name / file).is_file():
        raise DataNotFoundError(f"there is no {what} {name[:40]!r}; choose one of the list")
    return parent / name


def ids(parent: Path, file: str) -> list[str]:
    """The ids of all folders in `parent` that have a file, in order."""
    return sorted(path.name for path in parent.iterdir() if _ID.fullmatch(path.name) and (path / file).is_file())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values atomically, with the version of the format.

    Raises:
        DiskFullError, OddlensError: the file cannot be written.
    """
    write_bytes(path, json.dumps({"version": VERSION, **values}, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> dict[str, Any]:
    """The values that `write_json` wrote; empty where there is no file.

    Raises:
        ArtifactError: the file is damaged, or of another version.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is damaged or cannot be read; restore it from a backup") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: was not written by oddlens; move it away")
    check_version(values.pop("version", None), path)
    return values


def check_version(version: object, path: Path) -> None:
    """Refuse what another version of oddlens wrote.

    Raises:
        ArtifactError: says which.
    """
    if version != VERSION:
        raise ArtifactError(
            f"{path}: was written by another version of oddlens (its format is {str(version)[:20]}, this version's is "
            f"{VERSION}); update oddlens, or move it away"
        )
