"""The tables are those that the migrations leave, and times keep their zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from stored_inspections import inspection

from oddlens.store import schema
from oddlens.store.database import Database, parse_url
from oddlens.store.store import Store
from oddlens.store.tables import IMMUTABLE, Base


def test_the_migrations_leave_the_tables_that_the_code_uses(url: str) -> None:
    database = Database(parse_url(url)[0])
    schema.open_tables(database, create=True)
    with database.read() as session:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(session.connection(), opts=options)
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_all_tables_but_the_one_of_files_are_immutable() -> None:
    assert {*IMMUTABLE, "contents"} == Base.metadata.tables.keys()


def test_times_come_back_as_they_were_in_utc(store: Store) -> None:
    time = datetime(2026, 3, 1, 0, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    number = store.add(inspection(time=time), b"image")
    stored = store.inspection(number).time
    assert stored == time
    assert stored.tzinfo == UTC
