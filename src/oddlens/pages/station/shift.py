"""The inspections of a shift: their counts, and whether they drift."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from oddlens.conformal.grouped import GroupedDecision
from oddlens.pages.station.drift import ShiftDrift
from oddlens.store.inspection import Filters, StoredInspection
from oddlens.store.store import Store

SHIFT_HOURS = (6, 14, 22)  # at which shifts begin, in the time of the server's place
MAX_REPLAY = 5_000  # newest parts by which drift is judged when a shift is read from the store
PAGE = 1_000

DecisionsOf = Callable[[str, str], GroupedDecision | None]  # by the name and the digest of a detector that serves


def shift_start(now: datetime) -> datetime:
    """When the shift of this time began: at 6, 14 or 22 o'clock, in the zone of `now`."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight.replace(hour=hour) for hour in SHIFT_HOURS]
    return max((start for start in starts if start <= now), default=starts[-1] - timedelta(days=1))


class Shift:
    """Counts of the inspections since `start`; memory is bounded, but for what people judged.

    Not for several threads at once.
    """

    def __init__(self, start: datetime, decisions_of: DecisionsOf) -> None:
        self.start, self._decisions_of = start, decisions_of
        self.n, self.n_anomalous = 0, 0
        self._judged: dict[int, tuple[str, str]] = {}  # by inspection: the detector's verdict and the people's
        self._drift = ShiftDrift()

    @classmethod
    def read(cls, store: Store, start: datetime, last_id: int, decisions_of: DecisionsOf) -> Shift:
        """The shift as the store has it, up to the inspection `last_id`.

        Raises:
            StoreError: the store cannot be read.
        """
        shift, filters = cls(start, decisions_of), Filters(since=start, last_id=last_id)
        counts = store.counts(filters)
        shift.n, shift.n_anomalous = counts["n"], counts["n_anomalous"]
        if counts["n_judged"]:
            for page in store.iter_inspections(Filters(since=start, last_id=last_id, judgement="any")):
                for inspection in page:
                    shift.judge(inspection)
        newest, before = list[StoredInspection](), None
        while len(newest) < MAX_REPLAY and (rows := store.inspections(filters, limit=PAGE, before=before)):
            newest += rows
            before = rows[-1].id
        for inspection in reversed(newest[:MAX_REPLAY]):
            shift._watch(inspection)
        return shift

    def add(self, inspection: StoredInspection) -> None:
        """Count a new inspection."""
        if inspection.time >= self.start:
            self.n += 1
            self.n_anomalous += inspection.verdict == "anomaly"
            self.judge(inspection)
            self._watch(inspection)

    def judge(self, inspection: StoredInspection) -> None:
        """Take over what people judge about an inspection now."""
        verdict = inspection.judgement and inspection.judgement.verdict
        if verdict and inspection.time >= self.start:
            self._judged[inspection.id] = inspection.verdict, verdict
        else:
            self._judged.pop(inspection.id, None)

    def _watch(self, inspection: StoredInspection) -> None:
        decisions = self._decisions_of(inspection.detector, inspection.detector_digest)
        self._drift.add(inspection, decisions)

    def as_json(self) -> dict[str, Any]:
        """Counts as those of `Store.counts`, and the drift of each detector."""
        judged = list(self._judged.values())
        return {
            "start": self.start.isoformat(),
            "n": self.n,
            "n_anomalous": self.n_anomalous,
            "n_judged": len(judged),
            "n_false_alarms": judged.count(("anomaly", "normal")),
            "n_missed": judged.count(("normal", "anomaly")),
            "drift": self._drift.as_json(),
        }
