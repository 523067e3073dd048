"""What was put into service, and what people did otherwise, as rows of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from oddlens.errors import SettingsError
from oddlens.store.content_rows import check_stored
from oddlens.store.inspection import Action, Deployment, check_detector_name, clean_person, clean_text
from oddlens.store.tables import ActionRow, ContentRow, DeploymentRow, DetectorRow

OUT_OF_SERVICE = "out_of_service"  # an action: from then on nothing serves under the name that is its subject


def deploy(session: Session, name: str, digest: str, person: str, reason: str) -> Deployment:
    """Add a deployment; see `Store.deploy`."""
    check_detector_name(name)
    check_stored(session, digest)
    row = DeploymentRow(
        time=datetime.now(UTC),
        name=name,
        detector_digest=digest,
        person=clean_person(person, "a deployment"),
        reason=clean_text(reason),
    )
    session.add(row)
    session.flush()
    return to_deployment(row)


def select_newest(session: Session, name: str | None, limit: int) -> list[Deployment]:
    """The newest deployments, newest first, of all names or of one."""
    query = select(DeploymentRow).order_by(DeploymentRow.id.desc()).limit(limit)
    rows = session.scalars(query if name is None else query.where(DeploymentRow.name == clean_text(name)))
    return list(map(to_deployment, rows))


def newest_by_name(session: Session) -> dict[str, Deployment]:
    """The newest deployment of each name, in the order of names, also of those that were taken out of service since."""
    last = select(func.max(DeploymentRow.id)).group_by(DeploymentRow.name)
    rows = session.scalars(select(DeploymentRow).where(DeploymentRow.id.in_(last)))
    return {row.name: to_deployment(row) for row in sorted(rows, key=lambda row: row.name)}


def out_of_service(session: Session) -> dict[str, Action]:
    """The names that were taken out of service after their newest deployment, with what a person did."""
    newest = newest_by_name(session)
    last = select(func.max(ActionRow.id)).where(ActionRow.action == OUT_OF_SERVICE).group_by(ActionRow.subject)
    actions = map(to_action, session.scalars(select(ActionRow).where(ActionRow.id.in_(last))))
    return {one.subject: one for one in actions if one.subject in newest and one.time > newest[one.subject].time}


def has_served(session: Session, digest: str, name: str | None) -> bool:
    """Whether a detector was ever put into service, under a name or under any."""
    rows = select(DeploymentRow.id).where(DeploymentRow.detector_digest == digest)
    rows = rows if name is None else rows.where(DeploymentRow.name == clean_text(name))
    return bool(session.scalar(select(exists(rows))))


def is_deployed() -> ColumnElement[bool]:
    """Whether a content is the file of a detector that serves, or once served."""
    files = select(DetectorRow.sha256).join(DeploymentRow, DeploymentRow.detector_digest == DetectorRow.digest)
    return ContentRow.sha256.in_(files)


def to_deployment(row: DeploymentRow) -> Deployment:
    """A row as a plain value."""
    return Deployment(**{field.name: getattr(row, field.name) for field in fields(Deployment)})


def record_action(
    session: Session, action: str, subject: str, person: str, details: Mapping[str, Any] | None
) -> Action:
    """Add an action; see `Store.record_action`."""
    try:
        text = json.dumps(dict(details or {}), allow_nan=False)  # in ASCII, which every database can store
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the details of an action must be values for JSON ({error})") from error
    row = ActionRow(
        time=datetime.now(UTC),
        person=clean_person(person, "an action"),
        action=clean_text(action),
        subject=clean_text(subject),
        details=text,
    )
    session.add(row)
    session.flush()
    return to_action(row)


def select_actions(session: Session, limit: int, before: int | None) -> list[Action]:
    """The newest actions, newest first, from the one before an id on."""
    query = select(ActionRow).order_by(ActionRow.id.desc()).limit(limit)
    rows = session.scalars(query if before is None else query.where(ActionRow.id < before))
    return list(map(to_action, rows))


def to_action(row: ActionRow) -> Action:
    """A row as a plain value."""
    values = {field.name: getattr(row, field.name) for field in fields(Action)}
    return Action(**values | {"details": json.loads(row.details)})
