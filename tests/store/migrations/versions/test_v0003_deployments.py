"""The third version: its tables come and go, with rows in them, and the rows of the others stay."""

from __future__ import annotations

from sqlalchemy import inspect
from stored_inspections import DETECTOR_FILE, DIGEST, add_some

from oddlens.detector.detector import Detector
from oddlens.store import schema
from oddlens.store.database import Database, parse_url
from oddlens.store.open import open_store

NEW = {"deployments", "actions"}


def tables(database: Database) -> set[str]:
    with database.read() as session:
        return {*inspect(session.connection()).get_table_names()}


def test_the_tables_are_dropped_with_their_rows_and_can_be_made_again(url: str, tiles: Detector) -> None:
    with open_store(url) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        add_some(store, 2)
        store.deploy("part", DIGEST, person="Ann")
        store.record_action("fitted", "part", person="Ann")
        before = store.inspections()
    database = Database(parse_url(url)[0])
    assert tables(database) >= NEW
    with database.write() as session:
        schema.migrate(session.connection(), "0002")
    assert not tables(database) & NEW
    database.close()
    with open_store(url) as store:
        assert store.migrated_from == "0002"
        assert store.inspections() == before
        assert (store.deployments(), store.actions()) == ([], [])
        assert store.deploy("part", DIGEST, person="Ann").id == 1
