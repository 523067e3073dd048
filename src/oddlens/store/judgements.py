"""What people judge, and its undoing, as rows of their own."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from oddlens.errors import DataNotFoundError, StateError
from oddlens.store import queries
from oddlens.store.inspection import Judgement, Verdict, check_verdict, clean_person, clean_text
from oddlens.store.tables import InspectionRow, JudgementRow


def judge(session: Session, inspection_id: int, verdict: Verdict, person: str, reason: str) -> Judgement:
    """Add a judgement; see `Store.judge`."""
    check_verdict(verdict)
    if not queries.is_id(inspection_id) or session.get(InspectionRow, inspection_id) is None:
        raise DataNotFoundError(f"there is no inspection {inspection_id}; check its id")
    return add(session, JudgementRow(inspection_id=inspection_id, verdict=verdict), person, reason)


def withdraw(session: Session, judgement_id: int, person: str, reason: str) -> Judgement:
    """Add the undoing of a judgement; see `Store.withdraw`."""
    row = session.get(JudgementRow, judgement_id) if queries.is_id(judgement_id) else None
    if row is None:
        raise DataNotFoundError(f"there is no judgement {judgement_id}; check its id")
    undone = session.scalar(select(exists().where(JudgementRow.withdraws == judgement_id)))
    if undone or row.withdraws is not None:
        what = "was withdrawn already" if undone else "is itself the undoing of another"
        raise StateError(f"judgement {judgement_id} {what}; judge the inspection again")
    return add(session, JudgementRow(inspection_id=row.inspection_id, withdraws=judgement_id), person, reason)


def add(session: Session, row: JudgementRow, person: str, reason: str) -> Judgement:
    """Add a row with its person, its reason and the present time."""
    row.time = datetime.now(UTC)
    row.person, row.reason = clean_person(person, "a judgement"), clean_text(reason)
    session.add(row)
    session.flush()
    return queries.to_judgement(row)
