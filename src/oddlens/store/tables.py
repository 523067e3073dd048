"""The tables of the store, as the newest migration leaves them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    String,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from oddlens.store.inspection import as_utc


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC: with its zone in PostgreSQL, as text without it in SQLite, which has no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time as it is stored."""
        if value is None:
            return None
        return as_utc(value).replace(tzinfo=None) if dialect.name == "sqlite" else as_utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The time with its zone."""
        return None if value is None else as_utc(value)


BigId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only columns of the type INTEGER
IMMUTABLE = (  # tables whose rows are never changed or removed
    "stores", "detectors", "inspections", "judgements", "deployments", "actions",
)  # fmt: skip


class Base(DeclarativeBase):
    """What all tables share."""


class StoreRow(Base):
    """The one row that says which store this is, so that no other one takes its files."""

    __tablename__ = "stores"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    created: Mapped[datetime] = mapped_column(UtcTime)


class DetectorRow(Base):
    """A detector file, by the digest in its manifest."""

    __tablename__ = "detectors"
    digest: Mapped[str] = mapped_column(String, primary_key=True)
    sha256: Mapped[str] = mapped_column(String)  # of its content
    suffix: Mapped[str] = mapped_column(String)
    training: Mapped[str] = mapped_column(String)  # fingerprint of its training images


class InspectionRow(Base):
    """An inspection; see `inspection.Inspection`."""

    __tablename__ = "inspections"
    __table_args__ = (
        CheckConstraint("verdict IN ('normal', 'anomaly')", name="inspections_verdict"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime, index=True)
    name: Mapped[str] = mapped_column(String)
    image_sha256: Mapped[str] = mapped_column(String, index=True)
    map_sha256: Mapped[str | None] = mapped_column(String)
    part: Mapped[str | None] = mapped_column(String, index=True)
    lot: Mapped[str | None] = mapped_column(String, index=True)
    station: Mapped[str | None] = mapped_column(String)
    operator: Mapped[str | None] = mapped_column(String)
    group: Mapped[str | None] = mapped_column(String)
    anomaly_score: Mapped[float] = mapped_column(Double)
    p_value: Mapped[float | None] = mapped_column(Double)
    threshold: Mapped[float | None] = mapped_column(Double)
    verdict: Mapped[str] = mapped_column(String)
    detector: Mapped[str] = mapped_column(String)
    detector_digest: Mapped[str] = mapped_column(String, ForeignKey("detectors.digest"), index=True)
    runtime: Mapped[str] = mapped_column(String)
    processor: Mapped[str] = mapped_column(String)
    threads: Mapped[int | None]
    batch_size: Mapped[int]
    version: Mapped[str] = mapped_column(String)


class JudgementRow(Base):
    """What a person judged, or the undoing of an earlier judgement; see `inspection.Judgement`."""

    __tablename__ = "judgements"
    __table_args__ = (
        CheckConstraint("verdict IN ('normal', 'anomaly')", name="judgements_verdict"),
        CheckConstraint("(verdict IS NULL) = (withdraws IS NOT NULL)", name="judgements_undo"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    inspection_id: Mapped[int] = mapped_column(BigId, ForeignKey("inspections.id"), index=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    person: Mapped[str] = mapped_column(String)
    verdict: Mapped[str | None] = mapped_column(String)
    reason: Mapped[str] = mapped_column(String)
    withdraws: Mapped[int | None] = mapped_column(BigId, ForeignKey("judgements.id"), index=True)


class DeploymentRow(Base):
    """A detector that was put into service; see `inspection.Deployment`."""

    __tablename__ = "deployments"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    name: Mapped[str] = mapped_column(String)
    detector_digest: Mapped[str] = mapped_column(String, ForeignKey("detectors.digest"))
    person: Mapped[str] = mapped_column(String)
    reason: Mapped[str] = mapped_column(String)


class ActionRow(Base):
    """What a person did otherwise; see `inspection.Action`."""

    __tablename__ = "actions"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcTime)
    person: Mapped[str] = mapped_column(String)
    action: Mapped[str] = mapped_column(String)
    subject: Mapped[str] = mapped_column(String)
    details: Mapped[str] = mapped_column(String)  # JSON


class ContentRow(Base):
    """A file on disk: an image, a map or a detector. These rows change: they say what is there and may be removed."""

    __tablename__ = "contents"
    sha256: Mapped[str] = mapped_column(String, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    used: Mapped[datetime] = mapped_column(UtcTime, index=True)  # by its youngest inspection
    expired: Mapped[bool] = mapped_column(index=True)  # retention removes it, or has begun to
