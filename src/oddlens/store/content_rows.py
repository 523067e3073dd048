"""The table of contents: which files are on disk, and when each was used last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import exists, insert, select, update
from sqlalchemy.orm import Session

from oddlens.artifact.loading import read_digest
from oddlens.errors import ArtifactError, DataNotFoundError, StateError
from oddlens.store import queries
from oddlens.store.contents import ContentFolder
from oddlens.store.tables import ContentRow, DetectorRow

Uses = dict[str, tuple[bytes, datetime]]  # SHA-256 -> content, time of its use


def use(session: Session, files: ContentFolder, uses: Uses) -> None:
    """Note that contents are used, in the transaction that no other process removes files in."""
    present = dict(session.execute(select(ContentRow.sha256, ContentRow.used).where(ContentRow.sha256.in_(uses))).all())
    new, old = list[dict[str, Any]](), list[dict[str, Any]]()
    for digest, (content, used) in uses.items():
        files.write(content, digest)  # again, if it was removed meanwhile
        if digest in present:
            old.append({"sha256": digest, "used": max(present[digest], used), "expired": False})
        else:
            new.append({"sha256": digest, "used": used, "expired": False, "size": len(content)})
    if new:
        session.execute(insert(ContentRow), new)
    if old:
        session.execute(update(ContentRow), old)


def use_detectors(
    session: Session, files: ContentFolder, rows: Sequence[Mapping[str, Any]], paths: Mapping[str, Path]
) -> None:
    """Note that the detectors of inspections, by their rows, are used; a file that retention removed is stored again.

    Raises:
        StateError: one is not stored, and has no path.
        DataNotFoundError, ArtifactError: as `read_detector`.
    """
    times: dict[str, datetime] = {}
    for row in rows:
        digest, used = row["detector_digest"], row["time"]
        times[digest] = max(used, times.get(digest, used))
    for digest, used in times.items():
        detector = session.get(DetectorRow, digest)
        content = None if detector is None else session.get(ContentRow, detector.sha256)
        if detector is not None and digest in paths and (content is None or content.expired):
            use(session, files, {detector.sha256: (read_detector(paths[digest], digest), used)})
        else:
            content = check_stored(session, digest)
            content.used = max(content.used, used)


def is_stored(session: Session, sha256: str) -> bool:
    """Whether a content is on disk, and stays there for now."""
    return bool(session.scalar(select(exists().where(queries.is_stored(ContentRow, sha256)))))


def check_stored(session: Session, digest: str) -> ContentRow:
    """The row of a detector's file.

    Raises:
        StateError: the detector was not added, or retention has removed its file.
    """
    detector = session.get(DetectorRow, digest)
    content = None if detector is None else session.get(ContentRow, detector.sha256)
    if content is None or content.expired:
        raise StateError(f"the detector {digest} is not in the store; call add_detector first")
    return content


def read_detector(path: Path, digest: str) -> bytes:
    """The content of a detector file, which must be whole and have this digest.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is another detector now, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: no longer exists, so it cannot be stored; put the detector back") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    changed = ArtifactError(f"{path}: has changed since it was loaded; load the detector again")
    try:
        if read_digest(path, content) != digest:
            raise changed
    except ArtifactError as error:
        raise changed from error
    return content
