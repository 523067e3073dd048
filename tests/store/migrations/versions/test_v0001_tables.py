"""The first version: its tables come and go, with rows in them."""

from __future__ import annotations

from sqlalchemy import inspect
from stored_inspections import DETECTOR_FILE, add_some

from oddlens.detector.detector import Detector
from oddlens.store import schema
from oddlens.store.database import Database, parse_url
from oddlens.store.open import open_store


def test_the_tables_are_dropped_with_their_rows_and_can_be_made_again(url: str, tiles: Detector) -> None:
    with open_store(url) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        add_some(store, 2)
        store.judge(1, "normal", person="Ann")
    database = Database(parse_url(url)[0])
    with database.write() as session:
        schema.migrate(session.connection(), "0001")
        schema.migrate(session.connection(), "base")
    with database.read() as session:
        assert inspect(session.connection()).get_table_names() == [schema.VERSION_TABLE]
    with database.write() as session:
        schema.migrate(session.connection())
    with database.read() as session:
        assert len(inspect(session.connection()).get_table_names()) == 8
    database.close()
