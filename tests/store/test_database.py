"""Addresses, settings of the connections, and errors in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql_server import free_port
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from oddlens.errors import ArtifactError, DiskFullError, MissingExtraError, SettingsError, StoreError
from oddlens.store import database as module
from oddlens.store.database import Database, name_of, parse_url, translate
from oddlens.store.open import open_store


@pytest.mark.parametrize(
    ("address", "database", "files"),
    [
        ("parts.db", "parts.db", "parts.db.files"),
        ("sqlite:///parts.db", "parts.db", "parts.db.files"),
        ("sqlite:////srv/parts.db?files=/mnt/images", "/srv/parts.db", "/mnt/images"),
        ("postgresql://ann:secret@db/parts?files=/mnt/images", "parts", "/mnt/images"),
        ("postgresql+psycopg://ann@db/parts?files=/mnt/i%20m&sslmode=require", "parts", "/mnt/i m"),
    ],
)
def test_addresses_name_a_database_and_the_folder_of_its_files(address: str, database: str, files: str) -> None:
    url, folder = parse_url(address)
    assert url.database == database
    assert folder == Path(files)
    assert "files" not in url.query


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert parse_url("~/parts.db")[0].database == "/home/ann/parts.db"
    assert parse_url("sqlite:///~/parts.db")[1] == Path("/home/ann/parts.db.files")
    assert parse_url("parts.db", Path("~/images"))[1] == Path("/home/ann/images")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mysql://ann:secret@db/parts", "a store is a SQLite file"),
        ("sqlite://", "a store is a SQLite file"),
        ("sqlite:///:memory:", "a store is a SQLite file"),
        ("postgresql://ann:secret@db/parts", "add the folder of its images to the URL"),
        ("postgresql://ann:secret@db:port/parts?files=/x", "is not a URL"),
        ("sqlite:///a.db?files=/x&files=/y", "once"),
        ("", "a store is a SQLite file"),
    ],
)
def test_other_addresses_are_refused_without_showing_the_password(address: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        parse_url(address)
    assert "secret" not in str(refused.value)


def test_sqlite_syncs_each_commit_and_keeps_a_rollback_journal(tmp_path: Path) -> None:
    database = Database(parse_url(str(tmp_path / "parts.db"))[0])
    with database.read() as session:
        values = [
            session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["delete", 2, 1]
    database.close()


def test_a_failed_transaction_leaves_nothing(url: str) -> None:
    database = Database(parse_url(url)[0])
    with database.write() as session:
        session.execute(text("CREATE TABLE t (x INTEGER)"))

    def insert_and_fail() -> None:
        with database.write() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert_and_fail()
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM t")).scalar() == 0
    database.close()


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database" * 100)
    with pytest.raises(ArtifactError, match=r"notes\.txt: file is not a database"):
        open_store(str(path))
    assert path.read_text() == "no database" * 100
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts.db"
    open_store(str(path)).close()
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"x" * 4096
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="restore"):
        open_store(str(path))


def test_a_database_that_others_use_for_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0)
    address = str(tmp_path / "parts.db")
    open_store(address).close()
    other = sqlite3.connect(address, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="is in use by others"):
        open_store(address)
    other.close()


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file"):
        open_store(str(tmp_path / "nowhere" / "parts.db"))


def test_a_server_that_cannot_be_reached_is_an_error_without_the_password(tmp_path: Path) -> None:
    address = f"postgresql://ann:secret@127.0.0.1:{free_port()}/parts?files={tmp_path}"
    with pytest.raises(StoreError, match="check the store's address") as refused:
        open_store(address)
    assert "secret" not in str(refused.value)


def test_a_missing_driver_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(module, "create_engine", fail)
    with pytest.raises(MissingExtraError, match=r"oddlens\[serve\]"):
        open_store(f"postgresql://ann@db/parts?files={tmp_path}")


def full_sqlite() -> Exception:
    error: Any = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return DBAPIError("INSERT", {}, error)


def test_a_full_disk_is_an_error_of_its_own_in_both_databases() -> None:
    for error in (full_sqlite(), DBAPIError("INSERT", {}, psycopg.errors.DiskFull("no space left"))):
        assert isinstance(translate(error, "parts"), DiskFullError)  # type: ignore[arg-type]
    assert isinstance(translate(DBAPIError("INSERT", {}, psycopg.OperationalError("gone")), "parts"), StoreError)


def test_the_name_of_a_database_has_no_password() -> None:
    url, _ = parse_url("postgresql://ann:secret@db/parts?files=/x")
    assert name_of(url) == "postgresql+psycopg://ann:***@db/parts"
