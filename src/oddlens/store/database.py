"""Connections to SQLite and PostgreSQL: how they are set up, transactions, and errors in our words."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from oddlens.errors import ArtifactError, DiskFullError, MissingExtraError, OddlensError, SettingsError, StoreError
from oddlens.io.paths import expand_home
from oddlens.io.text import first_line

BUSY_SECONDS = 30  # that a transaction waits for those of other threads and processes
LOCK = 0x6F64646C656E73  # of PostgreSQL, which all writers take: "oddlens" in ASCII
PRAGMAS = ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON")
FULL = (sqlite3.SQLITE_FULL, "53100")  # codes of SQLite and PostgreSQL
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def parse_url(text: str, files: Path | None = None) -> tuple[URL, Path]:
    """The address of a database and the folder of its files, from a URL or the path of a SQLite file.

    The folder is `files`, or in the URL (`?files=FOLDER`), or beside the SQLite file with ".files" added to its name.

    Raises:
        SettingsError: it is no such address, or names no folder for PostgreSQL.
    """
    try:
        url = make_url(text) if "://" in text else URL.create("sqlite", database=text)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("the store's address is not a URL; write sqlite:///FILE or postgresql://...") from error
    folder = url.query.get("files") if files is None else str(files)
    url = url.difference_update_query(["files"])
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database and url.database != ":memory:":
        path = Path(expand_home(url.database))
        folder = folder or f"{path}.files"
        url = URL.create("sqlite+pysqlite", database=str(path))
    elif backend == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    else:
        raise SettingsError(f"{name_of(url)}: a store is a SQLite file (sqlite:///FILE) or PostgreSQL (postgresql://)")
    if not isinstance(folder, str):
        raise SettingsError(f"{name_of(url)}: add the folder of its images to the URL, once: ?files=FOLDER")
    return url, Path(expand_home(folder))


def name_of(url: URL) -> str:
    """A database in messages: the path of the file, or the URL without its password."""
    return url.database or "sqlite" if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


class Database:
    """An open database.

    SQLite has a single connection, for which threads wait; it keeps a rollback journal and syncs each commit.
    PostgreSQL has a pool of them.

    Raises:
        MissingExtraError: the driver is not installed.
        SettingsError: the URL has something that the driver does not accept.
    """

    def __init__(self, url: URL) -> None:
        self.name = name_of(url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        options: dict[str, Any]
        if self.is_sqlite:
            options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 2 * BUSY_SECONDS}
            options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        else:
            options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        try:
            self.engine = create_engine(url, **options)
        except ModuleNotFoundError as error:
            raise MissingExtraError("a store in PostgreSQL", "serve") from error
        if self.is_sqlite:
            prepare_sqlite(self.engine)
        self._writer = self.engine.execution_options(writes=True)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that reads.

        Raises:
            StoreError, ArtifactError: the database cannot be reached or read.
        """
        with self.translated_errors(), Session(self.engine) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes, alone of all threads and processes; without an error it is committed.

        Raises:
            StoreError, ArtifactError: the database cannot be reached or written.
            DiskFullError: there is no room; nothing is written.
        """
        with self.translated_errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            if not self.is_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(LOCK)))
            yield session

    @contextlib.contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise the errors of the database in the block as ours."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise translate(error, self.name) from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def prepare_sqlite(engine: Engine) -> None:
    """Set up each connection, and begin transactions explicitly, as Python's module does not for all statements."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def translate(error: SQLAlchemyError | sqlite3.Error, name: str) -> OddlensError:
    """An error of a database as one of ours."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorcode", None)
    reason = f"{name}: {first_line(cause)}"
    if code in FULL:
        return DiskFullError(f"{reason}; free some space, nothing was written")
    if code in DAMAGED:
        return ArtifactError(f"{reason}; restore the store from a backup, or name another file")
    if code == sqlite3.SQLITE_BUSY or isinstance(error, PoolTimeoutError):
        return StoreError(f"{name}: is in use by others for more than {BUSY_SECONDS} s; try again")
    return StoreError(f"{reason}; check the store's address and its permissions")
