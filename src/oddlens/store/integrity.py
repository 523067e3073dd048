"""Integrity: whether a store has what it says it has."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select

from oddlens.errors import ArtifactError
from oddlens.store.contents import ContentFolder
from oddlens.store.database import Database
from oddlens.store.tables import ContentRow

PAGE = 1000  # files whose names are read in one transaction


def problems(database: Database, files: ContentFolder) -> list[str]:
    """What is wrong with the database, and each file that is missing or not what was written."""
    lines = list[str]()
    if database.is_sqlite:
        with database.read() as session:
            connection = session.connection()
            lines += [row[0] for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"]
            references = connection.exec_driver_sql("PRAGMA foreign_key_check")
            lines += [f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there" for row in references]
    for digest in stored_digests(database):
        try:
            files.read(digest)
        except ArtifactError as error:
            lines.append(str(error))
    return lines


def stored_digests(database: Database) -> Iterator[str]:
    """The digests of all files that are stored, in order."""
    last = ""
    while True:
        query = select(ContentRow.sha256).where(ContentRow.sha256 > last, ContentRow.expired.is_(False))
        with database.read() as session:
            digests = session.scalars(query.order_by(ContentRow.sha256).limit(PAGE)).all()
        if not digests:
            return
        yield from digests
        last = digests[-1]
