"""Queries for inspections with their current judgements, and whether their files are still there."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, exists, func, select
from sqlalchemy.orm import aliased

from oddlens.store.inspection import Filters, Inspection, Judgement, StoredInspection, clean_text
from oddlens.store.tables import ContentRow, DetectorRow, InspectionRow, JudgementRow

Query = Select[*tuple[Any, ...]]
MAX_ID = 2**63 - 1
COPIED = tuple(field.name for field in fields(Inspection))  # columns and fields of the same names


def is_id(number: int) -> bool:
    """Whether a number can be the id of a row; databases refuse larger ones."""
    return 0 < number <= MAX_ID


def select_inspections(filters: Filters) -> Query:
    """Rows of an inspection, its detector, its judgement, and the digests of its files that are stored."""
    return all_inspections().where(*conditions(filters))


def select_counts(filters: Filters) -> Query:
    """One row: the numbers of inspections, of anomalies, of judged ones, of false alarms and of missed anomalies."""
    return all_counts().where(*conditions(filters))


@functools.cache
def all_inspections() -> Query:
    """The query without filters; to build it takes longer than to run it for one inspection."""
    image, anomaly_map, file = aliased(ContentRow), aliased(ContentRow), aliased(ContentRow)
    return (
        with_judgements(select(InspectionRow, DetectorRow, JudgementRow, image.sha256, anomaly_map.sha256, file.sha256))
        .outerjoin(image, is_stored(image, InspectionRow.image_sha256))
        .outerjoin(anomaly_map, is_stored(anomaly_map, InspectionRow.map_sha256))
        .outerjoin(file, is_stored(file, DetectorRow.sha256))
    )


@functools.cache
def all_counts() -> Query:
    """The query without filters."""
    verdict, judged = InspectionRow.verdict, JudgementRow.verdict
    columns = {
        "n": func.count(),
        "n_anomalous": count_where(verdict == "anomaly"),
        "n_judged": func.count(judged),
        "n_false_alarms": count_where(and_(verdict == "anomaly", judged == "normal")),
        "n_missed": count_where(and_(verdict == "normal", judged == "anomaly")),
    }
    query = select(*(column.label(name) for name, column in columns.items())).select_from(InspectionRow)
    return with_judgements(query)


def count_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """The number of rows that meet a condition."""
    return func.count(case((condition, 1)))


def with_judgements(query: Query) -> Query:
    """A query for inspections, joined with their detectors and current judgements."""
    judgement = and_(JudgementRow.inspection_id == InspectionRow.id, is_current())
    return query.join(DetectorRow, DetectorRow.digest == InspectionRow.detector_digest).outerjoin(
        JudgementRow, judgement
    )


def conditions(filters: Filters) -> list[ColumnElement[bool]]:
    """The filters as conditions."""
    row = InspectionRow
    values = {
        row.part: filters.part,
        row.lot: filters.lot,
        row.station: filters.station,
        row.verdict: filters.verdict,
        DetectorRow.training: filters.training,
        row.name: filters.name,
        row.image_sha256: filters.image_sha256,
        JudgementRow.verdict: None if filters.judgement == "any" else filters.judgement,
    }
    selected = [column == clean_text(value) for column, value in values.items() if value is not None]
    if filters.since is not None:
        selected.append(row.time >= filters.since)
    if filters.until is not None:
        selected.append(row.time < filters.until)
    if filters.last_id is not None:
        selected.append(row.id <= filters.last_id)
    if filters.judgement == "any":
        selected.append(JudgementRow.id.is_not(None))
    return selected


def is_current() -> ColumnElement[bool]:
    """Whether a judgement is the last one of its inspection that was not withdrawn."""
    later = aliased(JudgementRow)
    is_later = and_(later.inspection_id == JudgementRow.inspection_id, later.id > JudgementRow.id)
    return and_(stands(JudgementRow), ~exists().where(is_later, stands(later)))


def stands(judgement: type[JudgementRow]) -> ColumnElement[bool]:
    """Whether it is a judgement, not an undo, and was not withdrawn."""
    undo = aliased(JudgementRow)
    return and_(judgement.verdict.is_not(None), ~exists().where(undo.withdraws == judgement.id))


def is_stored(content: type[ContentRow], digest: Any) -> ColumnElement[bool]:
    """Whether the content of this digest is on disk, and stays there for now."""
    return and_(content.sha256 == digest, content.expired.is_(False))


def to_inspection(row: Any) -> StoredInspection:
    """A row of `select_inspections` as a plain value."""
    inspection, detector, judgement, image, anomaly_map, file = row
    return StoredInspection(
        **{name: getattr(inspection, name) for name in COPIED},
        id=inspection.id,
        image_sha256=inspection.image_sha256,
        map_sha256=inspection.map_sha256,
        detector_sha256=detector.sha256,
        detector_suffix=detector.suffix,
        training=detector.training,
        image_stored=image is not None,
        map_stored=anomaly_map is not None,
        detector_stored=file is not None,
        judgement=None if judgement is None else to_judgement(judgement),
    )


def to_judgement(row: JudgementRow) -> Judgement:
    """A row as a plain value."""
    return Judgement(**{field.name: getattr(row, field.name) for field in fields(Judgement)})
