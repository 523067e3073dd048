"""Retention: the oldest files are removed by age and size; the rows of their inspections stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, false, func, or_, select, true, update

from oddlens.errors import SettingsError
from oddlens.io.atomic import translate_os_errors
from oddlens.store.contents import ContentFolder
from oddlens.store.database import Database
from oddlens.store.deployments import is_deployed
from oddlens.store.tables import ContentRow

MAX_FILES = 500  # removed in one transaction, for which writers wait
MAX_DAYS = 36_500


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed, or would remove: numbers of files (images, maps, detectors), and bytes."""

    dry_run: bool
    expired: int
    expired_bytes: int
    oldest: datetime | None  # use of an expired file
    youngest: datetime | None
    orphans: int  # files that no row knows, which a crash left
    orphan_bytes: int
    remaining: int
    remaining_bytes: int

    def as_json(self) -> dict[str, Any]:
        """All of it as values for JSON."""
        values = asdict(self)
        return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in values.items()}


def prune(
    database: Database, files: ContentFolder, keep_days: float | None, keep_gb: float | None, dry_run: bool
) -> Pruned:
    """Remove files that no inspection of the last days needs, and the oldest of those that take more than a size.

    A file is first marked as expired, then removed, so that a crash between leaves nothing that is not there.

    Raises:
        SettingsError: a limit is negative or no number.
        OddlensError: a file cannot be removed.
    """
    expires = or_(select_expired(keep_days, keep_gb), ContentRow.expired)
    with database.read() as session:
        columns = (func.count(), func.coalesce(func.sum(ContentRow.size), 0))
        times = (func.min(ContentRow.used), func.max(ContentRow.used))
        count, size, oldest, youngest = session.execute(select(*columns, *times).where(expires)).one()
        all_count, all_size = session.execute(select(*columns)).one()
    if not dry_run:
        with database.write() as session:
            session.execute(update(ContentRow).where(expires).values(expired=True))
        while remove_expired(database, files):
            pass
    orphans = [remove_orphans(database, files, folder, dry_run) for folder in files.folders()]
    return Pruned(
        dry_run, count, int(size), oldest, youngest, sum(n for n, _ in orphans), sum(size for _, size in orphans),
        all_count - count, int(all_size - size),
    )  # fmt: skip


def select_expired(keep_days: float | None, keep_gb: float | None) -> ColumnElement[bool]:
    """Whether a file is older than `keep_days`, or beyond the youngest that take `keep_gb` together.

    Files of detectors that were put into service never are; they count first towards `keep_gb`.

    Raises:
        SettingsError: as `check_limits`.
    """
    check_limits(keep_days, keep_gb)
    conditions: list[ColumnElement[bool]] = [false()]
    if keep_days is not None:
        conditions.append(ContentRow.used < datetime.now(UTC) - timedelta(days=keep_days))
    if keep_gb is not None:
        order = (is_deployed().desc(), ContentRow.used.desc(), ContentRow.sha256)
        total = select(ContentRow.sha256, func.sum(ContentRow.size).over(order_by=order).label("size")).subquery()
        conditions.append(ContentRow.sha256.in_(select(total.c.sha256).where(total.c.size > keep_gb * 1e9)))
    return and_(or_(*conditions), ~is_deployed())


def check_limits(keep_days: float | None, keep_gb: float | None) -> None:
    """Refuse limits that cannot be.

    Raises:
        SettingsError: one is negative or no number.
    """
    if not 0 <= (keep_days or 0) <= MAX_DAYS or not 0 <= (keep_gb or 0) < float("inf"):
        raise SettingsError(
            f"files cannot be kept for {keep_days} days or up to {keep_gb} GB; give numbers from 0, of days up to "
            f"{MAX_DAYS}"
        )


def remove_expired(database: Database, files: ContentFolder) -> int:
    """Remove some of the files that are marked. Returns their number."""
    with database.write() as session:
        query = select(ContentRow.sha256).where(ContentRow.expired.is_(true())).limit(MAX_FILES)
        digests = session.scalars(query).all()
        for digest in digests:
            files.remove(digest)
        session.execute(delete(ContentRow).where(ContentRow.sha256.in_(digests)))
    return len(digests)


def remove_orphans(database: Database, files: ContentFolder, folder: Path, dry_run: bool) -> tuple[int, int]:
    """Remove the files in a folder that no row knows. Returns their number and bytes."""
    with database.read() as session:
        rows = select(ContentRow.sha256).where(ContentRow.sha256.startswith(folder.name))
        candidates = set(files.digests(folder)) - set(session.scalars(rows))
    if not candidates and not any(files.stale(folder)):
        return 0, 0
    with database.write() as session, translate_os_errors(folder):
        # an inspection that came since may use them
        used = set(session.scalars(select(ContentRow.sha256).where(ContentRow.sha256.in_(candidates))))
        paths = [*files.stale(folder), *(files.path(digest) for digest in candidates - used)]
        size = sum(path.stat().st_size for path in paths)
        for path in paths if not dry_run else ():
            path.unlink()
    return len(paths), size
