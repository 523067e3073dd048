"""Inspections, judgements, deployments and actions as plain values, without a database."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

from oddlens import __version__
from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import SettingsError
from oddlens.io.environment import processor_name

Verdict = Literal["normal", "anomaly"]
VERDICTS = ("normal", "anomaly")
MAX_BATCH = 65_536
DETECTOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # in service, as it is part of addresses


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One verdict of a detector on an image, with everything that made it.

    Attributes:
        name: of the image, as it was sent.
        anomaly_score, p_value, threshold: as in verdict files; None where the detector is not calibrated, or where
            its threshold is infinite.
        detector: the name under which the detector runs.
        detector_digest: the digest of its file (`manifest.digest`).
        runtime: and its version, device and precision.
        processor: `io.environment.processor_name()`.
        threads: of the runtime; None for all.
        batch_size: number of images that were scored together.
        part, lot, station, operator: whatever the sender says about the image.
        group: of a detector that has a threshold for each group.
        time: when the image was inspected; by default now. Without a time zone it is UTC.
        version: of oddlens.

    Raises:
        SettingsError: a number or a verdict is none.
    """

    name: str
    anomaly_score: float
    p_value: float | None
    threshold: float | None
    verdict: Verdict
    detector: str
    detector_digest: str
    runtime: str
    processor: str
    batch_size: int
    threads: int | None = None
    part: str | None = None
    lot: str | None = None
    station: str | None = None
    operator: str | None = None
    group: str | None = None
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    version: str = __version__

    def __post_init__(self) -> None:
        check_verdict(self.verdict)
        if not math.isfinite(self.anomaly_score) or not 1 <= self.batch_size <= MAX_BATCH:
            raise SettingsError(
                f"an inspection needs a finite score and a batch of 1 to {MAX_BATCH}, got {self.anomaly_score} and "
                f"{self.batch_size}"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                object.__setattr__(self, item.name, clean_text(value))
            elif isinstance(value, float) and not math.isfinite(value):
                object.__setattr__(self, item.name, None)
        object.__setattr__(self, "time", as_utc(self.time))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a person judged about an inspection; or, with `withdraws`, the undoing of an earlier judgement."""

    id: int
    inspection_id: int
    time: datetime
    person: str
    verdict: Verdict | None  # None for an undo
    reason: str
    withdraws: int | None = None  # id of the judgement that is undone

    def describe(self) -> str:
        """Who judged what, when and why, in a line."""
        what = f"withdraws judgement {self.withdraws}" if self.verdict is None else self.verdict
        return f"{what}, {self.person}, {self.time:%Y-%m-%d %H:%M:%S} UTC" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A detector that was put into service under a name; it serves until the next deployment of that name."""

    id: int
    time: datetime
    name: str
    detector_digest: str
    person: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a person did besides judging and deploying, and to what."""

    id: int
    time: datetime
    person: str
    action: str
    subject: str
    details: dict[str, Any]  # values for JSON


@dataclass(frozen=True, kw_only=True)
class StoredInspection(Inspection):
    """An inspection in the store; `judgement` is the last one that was not withdrawn."""

    id: int
    image_sha256: str
    map_sha256: str | None
    detector_sha256: str  # of its file
    detector_suffix: str
    training: str  # fingerprint of the detector's training images, the same after it is recalibrated or exported
    image_stored: bool  # False once retention has removed it
    map_stored: bool
    detector_stored: bool
    judgement: Judgement | None

    def as_json(self) -> dict[str, Any]:
        """All of it as values for JSON."""
        return as_json(self) | {"judgement": None if self.judgement is None else as_json(self.judgement)}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which inspections; without any filter, all. Raises a SettingsError for what is no verdict.

    Attributes:
        since, until: times, the first included and the last not. Without a time zone they are UTC.
        part, lot, station: exactly this text.
        verdict: of the detector.
        judgement: of people; "any" for all that were judged.
        training: fingerprint of the detector's training images.
        name, image_sha256: of the image.
        last_id: the highest id.
    """

    since: datetime | None = None
    until: datetime | None = None
    part: str | None = None
    lot: str | None = None
    station: str | None = None
    verdict: Verdict | None = None
    judgement: Verdict | Literal["any"] | None = None
    training: str | None = None
    name: str | None = None
    image_sha256: str | None = None
    last_id: int | None = None

    def __post_init__(self) -> None:
        for verdict in (self.verdict, None if self.judgement == "any" else self.judgement):
            if verdict is not None:
                check_verdict(verdict)


def make_inspections(
    detector: Detector,
    verdicts: Verdicts,
    *,
    name: str,
    batch_size: int,
    groups: Sequence[str] = (),
    time: datetime | None = None,
    part: str | None = None,
    lot: str | None = None,
    station: str | None = None,
    operator: str | None = None,
) -> list[Inspection]:
    """The inspections of N verdicts of a detector that runs under a `name`; `batch_size` were scored together.

    `groups` has each image's group, where there are any; the tags are those of all.
    """
    return [
        Inspection(
            name=file,
            anomaly_score=float(verdicts.anomaly_score[i]),
            p_value=float(verdicts.p_value[i]),
            threshold=float(verdicts.threshold[i]),
            verdict="anomaly" if verdicts.label[i] else "normal",
            detector=name,
            detector_digest=detector.manifest.digest,
            runtime=detector.backend.name,
            processor=processor_name(),
            threads=detector.threads,
            batch_size=batch_size,
            group=groups[i] if groups else None,
            time=time or datetime.now(UTC),
            part=part,
            lot=lot,
            station=station,
            operator=operator,
        )
        for i, file in enumerate(verdicts.files)
    ]


def check_verdict(verdict: str) -> None:
    """Refuse what is no verdict.

    Raises:
        SettingsError: says what is.
    """
    if verdict not in VERDICTS:
        raise SettingsError(f"{verdict!r} is not a verdict; give one of: {', '.join(VERDICTS)}")


def check_detector_name(name: str) -> None:
    """Refuse a name under which no detector can serve.

    Raises:
        SettingsError: says which can.
    """
    if not DETECTOR_NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r}: the name of a detector has up to 64 letters, digits, '.', '_' and '-', and starts with a "
            "letter or digit"
        )


def clean_person(person: str, what: str) -> str:
    """The name of the person who did `what`.

    Raises:
        SettingsError: there is none.
    """
    if not person.strip():
        raise SettingsError(f"{what} needs the name of the person who made it")
    return clean_text(person)


def clean_text(text: str) -> str:
    r"""Text that every database can store: what is not UTF-8, and NULs, are written as their numbers.

    >>> clean_text("a\0b")
    'a\\x00b'
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def as_utc(time: datetime) -> datetime:
    """A time in UTC; without a time zone it is in UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def as_json(value: Inspection | Judgement | Deployment | Action) -> dict[str, Any]:
    """The fields of a plain value for JSON, times in ISO 8601."""
    values = {item.name: getattr(value, item.name) for item in fields(value)}
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in values.items()}
