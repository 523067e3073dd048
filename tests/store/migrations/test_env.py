"""Migrations run in the transaction of their caller, so that a failed one leaves nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect

from oddlens.store import schema
from oddlens.store.database import Database, parse_url


def test_a_migration_that_fails_leaves_the_database_as_it_was(url: str) -> None:
    database = Database(parse_url(url)[0])

    def migrate_and_fail() -> None:
        with database.write() as session:
            schema.migrate(session.connection())
            assert "inspections" in inspect(session.connection()).get_table_names()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        migrate_and_fail()
    with database.read() as session:
        assert inspect(session.connection()).get_table_names() == []
    database.close()
