"""The database itself refuses to change or remove what was recorded, whoever asks."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from stored_inspections import DIGEST, add_some

from oddlens.errors import StoreError
from oddlens.store.database import Database, parse_url
from oddlens.store.store import Store
from oddlens.store.tables import IMMUTABLE

KEYS = dict.fromkeys(IMMUTABLE, "id") | {"detectors": "digest"}


def attempts(table: str, is_sqlite: bool) -> list[str]:
    copied = {"inspections": "inspections WHERE id = 1"}.get(table, table)
    replace = f"INSERT OR REPLACE INTO {table} SELECT * FROM {copied}"
    truncate = f"TRUNCATE {table} CASCADE"
    return [
        f"UPDATE {table} SET {KEYS[table]} = {KEYS[table]}",
        f"DELETE FROM {table}",
        replace if is_sqlite else truncate,
    ]


@pytest.mark.parametrize("table", IMMUTABLE)
def test_rows_are_never_changed_replaced_or_removed(table: str, store: Store, url: str) -> None:
    add_some(store, 2)
    store.judge(1, "normal", person="Ann")
    store.deploy("part", DIGEST, person="Ann")
    store.record_action("fitted", "part", person="Ann")
    before = store.inspections()
    database = Database(parse_url(url)[0])
    for statement in attempts(table, database.is_sqlite):
        with (
            pytest.raises(StoreError, match=f"rows of {table} are never changed or removed"),
            database.write() as session,
        ):
            session.execute(text(statement))
    database.close()
    assert store.inspections() == before
    assert add_some(store, 1) == [3]
