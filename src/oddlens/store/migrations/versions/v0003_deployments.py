"""The tables of what was put into service and of what people did, whose rows are never changed or removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from oddlens.store.migrations.versions.v0001_tables import BIG_ID, TIME
from oddlens.store.migrations.versions.v0002_immutable import postgresql_triggers, sqlite_triggers

revision = "0003"
down_revision = "0002"

TABLES = ("deployments", "actions")


def upgrade() -> None:
    """Create the tables and their triggers."""
    op.create_table(
        "deployments",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("detector_digest", sa.String, sa.ForeignKey("detectors.digest"), nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "actions",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("details", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in TABLES:
        for statement in sqlite_triggers(table, "id") if is_sqlite else postgresql_triggers(table):
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables with their rows and triggers."""
    for table in TABLES:
        op.drop_table(table)
