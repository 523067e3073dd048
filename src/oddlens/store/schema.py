"""The version of a store's tables, and how it is raised and lowered."""

from __future__ import annotations

import functools
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select
from sqlalchemy.orm import Session

from oddlens.errors import ArtifactError, DataNotFoundError, StoreError
from oddlens.store.database import Database
from oddlens.store.tables import Base, StoreRow

VERSION_TABLE = "oddlens_schema"  # not Alembic's default, which another program may use in the same database
_ALEMBIC = threading.Lock()  # it has one context for all threads


def open_tables(database: Database, create: bool) -> tuple[str, str | None]:
    """Bring the tables to the newest version. Returns the store's id, and the older version that it had, if any.

    Raises:
        DataNotFoundError: there is no store, and none shall be created.
        ArtifactError: the tables are not a store's, or its file is damaged.
        StoreError: a newer oddlens made the store.
    """
    with database.read() as session:
        check_sqlite(database, session)
        before = current_version(session.connection(), database.name)
    if before is None and not create:
        raise DataNotFoundError(f"{database.name}: contains no store of inspections; check the address")
    if before != newest_version():
        with database.write() as session:
            before = current_version(session.connection(), database.name)
            migrate(session.connection())
            if before is None:
                session.add(StoreRow(id=secrets.token_hex(16), created=datetime.now(UTC)))
    with database.read() as session:
        return session.scalars(select(StoreRow.id)).one(), before if before != newest_version() else None


def check_sqlite(database: Database, session: Session) -> None:
    """Refuse a damaged SQLite file.

    Raises:
        ArtifactError: says what is damaged.
    """
    problem = session.connection().exec_driver_sql("PRAGMA quick_check(1)").scalar() if database.is_sqlite else "ok"
    if problem != "ok":
        raise ArtifactError(f"{database.name}: is damaged ({problem}); restore the store from a backup")


def current_version(connection: Connection, name: str) -> str | None:
    """The version of the tables; None where there are none of ours.

    Raises:
        ArtifactError: there are tables of these names without a version.
        StoreError: the version is unknown.
    """
    tables = set(inspect(connection).get_table_names())
    version = version_context(connection).get_current_revision()
    if version is None and tables & Base.metadata.tables.keys():
        raise ArtifactError(f"{name}: has tables that are not of a store of inspections; name another database")
    if version is not None and version not in all_versions():
        raise StoreError(
            f"{name}: has version {version} of the tables, this oddlens reads up to {newest_version()}; upgrade oddlens"
        )
    return version


@functools.cache
def all_versions() -> list[str]:
    """All versions, the oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


def newest_version() -> str:
    """The version of this oddlens."""
    return all_versions()[-1]


def migrate(connection: Connection, version: str | None = None) -> None:
    """Migrate up or down to a version, by default the newest, in the connection's transaction; "base" has no tables."""
    versions, context = ["base", *all_versions()], version_context(connection)
    present, target = context.get_current_revision() or "base", version or versions[-1]
    settings = config()
    settings.attributes.update(connection=connection, version_table=VERSION_TABLE)
    down = versions.index(target) < versions.index(present)
    with _ALEMBIC:
        (command.downgrade if down else command.upgrade)(settings, target)


def version_context(connection: Connection) -> MigrationContext:
    """What reads the version of the tables."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})


def config() -> Config:
    """The settings of Alembic."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return settings
