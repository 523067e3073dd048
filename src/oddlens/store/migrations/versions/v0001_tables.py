"""The tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
TABLES = ("contents", "judgements", "inspections", "detectors", "stores")  # those that refer to others first


def upgrade() -> None:
    """Create the tables."""
    op.create_table("stores", sa.Column("id", sa.String, primary_key=True), sa.Column("created", TIME, nullable=False))
    op.create_table(
        "detectors",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("suffix", sa.String, nullable=False),
        sa.Column("training", sa.String, nullable=False),
    )
    op.create_table(
        "inspections",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("time", TIME, nullable=False, index=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("image_sha256", sa.String, nullable=False, index=True),
        sa.Column("map_sha256", sa.String),
        sa.Column("part", sa.String, index=True),
        sa.Column("lot", sa.String, index=True),
        sa.Column("station", sa.String),
        sa.Column("operator", sa.String),
        sa.Column("group", sa.String),
        sa.Column("anomaly_score", sa.Double, nullable=False),
        sa.Column("p_value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("detector", sa.String, nullable=False),
        sa.Column("detector_digest", sa.String, sa.ForeignKey("detectors.digest"), nullable=False, index=True),
        sa.Column("runtime", sa.String, nullable=False),
        sa.Column("processor", sa.String, nullable=False),
        sa.Column("threads", sa.Integer),
        sa.Column("batch_size", sa.Integer, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.CheckConstraint("verdict IN ('normal', 'anomaly')", name="inspections_verdict"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "judgements",
        sa.Column("id", BIG_ID, primary_key=True),
        sa.Column("inspection_id", BIG_ID, sa.ForeignKey("inspections.id"), nullable=False, index=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("person", sa.String, nullable=False),
        sa.Column("verdict", sa.String),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("withdraws", BIG_ID, sa.ForeignKey("judgements.id"), index=True),
        sa.CheckConstraint("verdict IN ('normal', 'anomaly')", name="judgements_verdict"),
        sa.CheckConstraint("(verdict IS NULL) = (withdraws IS NOT NULL)", name="judgements_undo"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "contents",
        sa.Column("sha256", sa.String, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("used", TIME, nullable=False, index=True),
        sa.Column("expired", sa.Boolean, nullable=False, index=True),
    )


def downgrade() -> None:
    """Drop the tables, with all their rows."""
    for table in TABLES:
        op.drop_table(table)
