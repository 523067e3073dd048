"""Triggers by which the database itself refuses to change or remove what was recorded."""

from __future__ import annotations

from collections.abc import Iterator

from alembic import op

revision = "0002"
down_revision = "0001"

KEYS = {"stores": "id", "detectors": "digest", "inspections": "id", "judgements": "id"}
FUNCTION = """
CREATE FUNCTION oddlens_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME; END $$
"""


def upgrade() -> None:
    """Create the triggers."""
    if op.get_bind().dialect.name == "sqlite":
        statements = [statement for table, key in KEYS.items() for statement in sqlite_triggers(table, key)]
    else:
        statements = [FUNCTION, *(statement for table in KEYS for statement in postgresql_triggers(table))]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    """Drop the triggers; the rows stay."""
    if op.get_bind().dialect.name == "sqlite":
        for table in KEYS:
            for event in ("update", "delete", "insert"):
                op.execute(f"DROP TRIGGER {table}_no_{event}")
    else:
        op.execute("DROP FUNCTION oddlens_refuse() CASCADE")


def sqlite_triggers(table: str, key: str) -> Iterator[str]:
    """Of one table; a row is also refused whose key is there, as INSERT OR REPLACE fires no trigger for the old row."""
    message = f"SELECT RAISE(ABORT, 'rows of {table} are never changed or removed');"
    again = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})"  # noqa: S608 - our own names
    for event, condition in (("update", ""), ("delete", ""), ("insert", again)):
        yield f"CREATE TRIGGER {table}_no_{event} BEFORE {event.upper()} ON {table} {condition} BEGIN {message} END"


def postgresql_triggers(table: str) -> Iterator[str]:
    """Of one table; TRUNCATE fires no trigger of rows."""
    execute = "EXECUTE FUNCTION oddlens_refuse()"
    yield f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {execute}"
    yield f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {execute}"
