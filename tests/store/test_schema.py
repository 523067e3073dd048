"""Versions of the tables: made, raised, refused and lowered, with rows in them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from stored_inspections import DETECTOR_FILE, add_some

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, StoreError
from oddlens.store import schema
from oddlens.store.database import Database, parse_url
from oddlens.store.open import open_store


def execute(url: str, *statements: str) -> None:
    change(url, lambda session: [session.execute(text(statement)) for statement in statements])


def change(url: str, action: Callable[..., object]) -> None:
    database = Database(parse_url(url)[0])
    with database.write() as session:
        action(session)
    database.close()


def test_an_older_store_is_migrated_with_its_rows_and_says_so(url: str, tiles: Detector) -> None:
    with open_store(url) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        add_some(store, 3)
        store.judge(2, "anomaly", person="Ann")
        assert store.migrated_from is None
        before = store.inspections()
    change(url, lambda session: schema.migrate(session.connection(), "0001"))
    with open_store(url, create=False) as store:
        assert store.migrated_from == "0001"
        assert store.inspections() == before
        assert add_some(store, 1) == [4]
    with open_store(url) as store:
        assert store.migrated_from is None


def test_a_newer_store_is_refused_and_stays(url: str) -> None:
    open_store(url).close()
    execute(url, "UPDATE oddlens_schema SET version_num = '0999'")
    with pytest.raises(
        StoreError, match=r"has version 0999 of the tables, this oddlens reads up to .*; upgrade oddlens"
    ):
        open_store(url)
    execute(url, "UPDATE oddlens_schema SET version_num = '0003'")
    open_store(url).close()


def test_tables_of_another_program_are_refused_and_stay(url: str) -> None:
    execute(url, "CREATE TABLE inspections (x INTEGER)", "INSERT INTO inspections VALUES (1)")
    with pytest.raises(ArtifactError, match="has tables that are not of a store of inspections"):
        open_store(url)
    execute(
        url, "DELETE FROM inspections WHERE x = 1", "DROP TABLE inspections", "CREATE TABLE alembic_version (x INTEGER)"
    )
    open_store(url).close()  # other tables do not matter, nor does another program's version


def test_nothing_is_made_where_a_store_must_exist(url: str) -> None:
    with pytest.raises(DataNotFoundError):
        open_store(url, create=False)
    execute(url, "CREATE TABLE other (x INTEGER)")
    with pytest.raises(DataNotFoundError, match="contains no store of inspections"):
        open_store(url, create=False)


def test_a_downgrade_takes_the_tables_away(url: str) -> None:
    with open_store(url) as store:
        assert schema.all_versions() == ["0001", "0002", "0003"]
        assert schema.newest_version() == "0003"
        assert store.migrated_from is None
    change(url, lambda session: schema.migrate(session.connection(), "0001"))
    execute(url, "DELETE FROM stores")  # which the triggers had refused
    change(url, lambda session: schema.migrate(session.connection()))


def test_threads_that_open_a_new_store_at_once_share_it(url: str) -> None:
    errors, barrier = list[BaseException](), threading.Barrier(4)

    def open_once() -> None:
        try:
            barrier.wait()
            open_store(url).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    database = Database(parse_url(url)[0])
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM stores")).scalar() == 1
    database.close()
