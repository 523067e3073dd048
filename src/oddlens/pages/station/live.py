"""The live stream: one reader of the store that all pages share, and server-sent events for each of them.

Events are `state` (the newest parts, the shift and the detectors: a page forgets what it had), `parts` (new ones, and
those about which people judged something) and `beat`, each second. Ids of events are a position in the store, so that
a page that comes back within `PAGE` parts misses none.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi.sse import format_sse_event

from oddlens.conformal.grouped import GroupedDecision
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.pages.station.shift import Shift, shift_start
from oddlens.service.refusals import RefusalError
from oddlens.service.service import Service
from oddlens.store.inspection import Filters, StoredInspection, as_json
from oddlens.store.store import Store

POLL_SECONDS = 0.5  # between two looks at the store, which other processes write to
MIN_POLL_SECONDS = 0.1  # however many parts arrive
TICKS_PER_BEAT, TICK_SECONDS = 4, 0.25
PAGE = 100  # inspections of an event
SHOWN = 24  # newest parts, and newest anomalies, that a page begins with
QUEUE = 32  # events that wait for a slow page
MAX_PAGES = 64
RETRY_MILLISECONDS = 1000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must not collect events
SHIFT_ACTION = "begin_shift"
POSITION = re.compile(r"(\d{1,18})-(\d{1,18})")
PART_FIELDS = (
    "id", "name", "anomaly_score", "p_value", "threshold", "verdict", "detector", "part", "lot", "station", "group"
)  # fmt: skip

Json = dict[str, Any]


@dataclass(frozen=True)
class Position:
    """The last inspection and the last judgement that were read."""

    inspection: int
    judgement: int

    def __str__(self) -> str:
        return f"{self.inspection}-{self.judgement}"

    @classmethod
    def parse(cls, text: str | None) -> Position | None:
        """A position from the id of an event; None for anything else."""
        match = POSITION.fullmatch(text or "")
        return match and cls(int(match[1]), int(match[2]))


class Recent:
    """The newest parts by id, in the order in which they came."""

    def __init__(self) -> None:
        self.parts: dict[int, Json] = {}

    def add(self, part: Json) -> None:
        """Add a part; the oldest makes way."""
        self.parts[part["id"]] = part
        if len(self.parts) > SHOWN:
            del self.parts[next(iter(self.parts))]

    def replace(self, part: Json) -> None:
        """Replace a part by what it is now, if it is among them."""
        if part["id"] in self.parts:
            self.parts[part["id"]] = part


class Subscriber:
    """The events that wait for one page; one that is slow loses them, and gets the present state in their place."""

    def __init__(self) -> None:
        self.is_behind = False
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)

    def put(self, event: bytes | None) -> None:
        """Add an event; None ends the stream."""
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            self.is_behind = True
        self._queue.put_nowait(event)

    async def next(self) -> bytes | None:
        """The next event; None at the end."""
        return await self._queue.get()


class LiveStream:
    """What all pages share: a reader of the store, which `run` drives, and the pages that listen to it.

    The reader works in a thread of its own. Everything else happens in the event loop, which never waits for the store.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.position = Position(0, 0)
        self.recent, self.anomalies = Recent(), Recent()
        self.is_failing = False  # the store cannot be read
        self._shift: Shift | None = None
        self._shift_json: Json = {}
        self._begun_at: datetime | None = None
        self._subscribers = set[Subscriber]()
        self._reader = ThreadPoolExecutor(1, "live")
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- running ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read and publish from the moment at which the service serves until it drains."""
        while self.service.state == "starting":
            await asyncio.sleep(TICK_SECONDS)
        self._loop = asyncio.get_running_loop()
        self.service.on_commit.append(self._wake.set)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_on())
                await self._beat()
                reading.cancel()
        finally:
            self.service.on_commit.remove(self._wake.set)
            for subscriber in self._subscribers:
                subscriber.put(None)
            self._reader.shutdown(wait=False)

    @property
    def is_ready(self) -> bool:
        """Whether the state at the start was read."""
        return bool(self._shift_json)

    def wake(self) -> None:
        """Look at the store now; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _read_on(self) -> None:
        while True:
            self._wake.clear()
            try:
                event = await asyncio.get_running_loop().run_in_executor(self._reader, self._read)
            except Exception:  # the next look may succeed; pages are told meanwhile
                event, self.is_failing = None, True
            if event is not None:
                self._publish(event)
            await asyncio.sleep(MIN_POLL_SECONDS)
            try:
                async with asyncio.timeout(POLL_SECONDS - MIN_POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _beat(self) -> None:
        ticks = 0
        while self.service.state != "draining":
            if ticks % TICKS_PER_BEAT == 0:
                self._publish(self._beat_event())
            ticks += 1
            await asyncio.sleep(TICK_SECONDS)

    def _publish(self, event: bytes) -> None:
        for subscriber in self._subscribers:
            subscriber.put(event)

    # -- reading, in the reader's thread ----------------------------------------------------------

    def _read(self) -> bytes | None:
        """Read what is new. Returns it as an event, if there is any."""
        store = self.store
        if self._shift is None:
            self._begin(store)
            return None
        inspections = store.inspections_after(self.position.inspection, PAGE)
        judgements = store.judgements_after(self.position.judgement, PAGE)
        judged = [store.inspection(number) for number in sorted({item.inspection_id for item in judgements})]
        self.is_failing = False
        for inspection in inspections:
            self._shift.add(inspection)
            self._remember(inspection)
        for inspection in judged:
            self._shift.judge(inspection)
            self.recent.replace(to_part(inspection))
            self.anomalies.replace(to_part(inspection))
        self.position = Position(
            inspections[-1].id if inspections else self.position.inspection,
            judgements[-1].id if judgements else self.position.judgement,
        )
        if self._shift.start != self._start():
            self._read_shift(store)
        self._shift_json = self._shift.as_json()
        if len(inspections) == PAGE or len(judgements) == PAGE:
            self.wake()  # there is more
        return self._parts_event([*inspections, *judged]) if inspections or judged else None

    def _begin(self, store: Store) -> None:
        """Read the present state."""
        self._begun_at = begun_since(store, self._start())
        self.position = Position(*store.last_ids())
        for inspection in reversed(store.inspections(Filters(verdict="anomaly"), limit=SHOWN)):
            self.anomalies.add(to_part(inspection))
        for inspection in reversed(store.inspections(limit=SHOWN)):
            self.recent.add(to_part(inspection))
        self._read_shift(store)

    def _read_shift(self, store: Store) -> None:
        self._shift = Shift.read(store, self._start(), self.position.inspection, self._decisions_of)
        self._shift_json = self._shift.as_json()

    def _remember(self, inspection: StoredInspection) -> None:
        part = to_part(inspection)
        self.recent.add(part)
        if inspection.verdict == "anomaly":
            self.anomalies.add(part)

    def _start(self) -> datetime:
        start = shift_start(datetime.now().astimezone())
        return start if self._begun_at is None else max(start, self._begun_at)

    def _decisions_of(self, name: str, digest: str) -> GroupedDecision | None:
        detectors = self.service.detectors
        if name not in detectors or detectors[name].manifest.digest != digest:
            return None
        return detectors[name].decisions_

    def begin_shift(self, person: str) -> None:
        """Count from now on, on all pages, until the next shift begins by itself.

        Raises:
            SettingsError: the person has no name.
            StoreError: it cannot be recorded.
        """
        self._begun_at = self.store.record_action(SHIFT_ACTION, "", person=person).time
        self.wake()

    @property
    def store(self) -> Store:
        """The store of the service, which has one while there are pages."""
        store = self.service.store
        if store is None:
            raise RefusalError(404, "this service runs with --no-store and records nothing")
        return store

    # -- events -----------------------------------------------------------------------------------

    def open(self, after: str | None) -> AsyncIterator[bytes]:
        """The events of a page, from the event `after` on, which may be None.

        Raises:
            RefusalError: 503 while there is nothing to tell yet, or too many pages are open.
        """
        self.service.check_serving()
        if not self.is_ready or len(self._subscribers) >= MAX_PAGES:
            why = f"{MAX_PAGES} pages are open" if self.is_ready else "the inspections are being read"
            raise RefusalError(503, f"{why}; try again", retry_after=1)
        return self._events(Position.parse(after))

    async def _events(self, after: Position | None) -> AsyncIterator[bytes]:
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        try:
            yield await self._first_event(after)
            while (event := await subscriber.next()) is not None:
                if subscriber.is_behind:
                    subscriber.is_behind = False
                    event = self._state_event()
                yield event
        finally:
            self._subscribers.discard(subscriber)

    async def _first_event(self, after: Position | None) -> bytes:
        """What a page has missed, or the present state where that is too much."""
        now = self.position
        if after is None or after.inspection > now.inspection or after.judgement > now.judgement:
            return self._state_event()
        try:
            missed = await asyncio.to_thread(self._missed, after, now)
        except OddlensError:
            missed = None
        return self._state_event() if missed is None else self._parts_event(missed, now)

    def _missed(self, after: Position, now: Position) -> list[StoredInspection] | None:
        inspections = self.store.inspections_after(after.inspection, PAGE)
        judgements = self.store.judgements_after(after.judgement, PAGE)
        if len(inspections) == PAGE or len(judgements) == PAGE:
            return None
        judged = {item.inspection_id for item in judgements if item.id <= now.judgement}
        new = [item for item in inspections if item.id <= now.inspection]
        return new + [self.store.inspection(number) for number in sorted(judged)]

    def _parts_event(self, inspections: Sequence[StoredInspection], position: Position | None = None) -> bytes:
        parts = [to_part(inspection) for inspection in inspections]
        return encode("parts", self._summary() | {"parts": parts}, position or self.position)

    def _beat_event(self) -> bytes:
        return encode("beat", self._summary())

    def _state_event(self) -> bytes:
        values = {"parts": [*self.recent.parts.values()], "anomalies": [*self.anomalies.parts.values()]}
        return encode("state", self._summary() | values, self.position)

    def _summary(self) -> Json:
        """What every event tells."""
        detectors = self.service.detectors
        return {
            "time": datetime.now(UTC).isoformat(),
            "is_failing": self.is_failing,
            "shift": self._shift_json,
            "detectors": [describe(name, detectors[name]) for name in detectors.names],
        }


def begun_since(store: Store, start: datetime) -> datetime | None:
    """When a person last began a shift, if that was since `start`."""
    before = None
    while actions := store.actions(before=before):
        for action in actions:
            if action.time < start:
                return None
            if action.action == SHIFT_ACTION:
                return action.time
        before = actions[-1].id
    return None


def to_part(inspection: StoredInspection) -> Json:
    """What a page shows of an inspection."""
    judgement = inspection.judgement
    return {name: getattr(inspection, name) for name in PART_FIELDS} | {
        "time": inspection.time.isoformat(),
        "has_image": inspection.image_stored,
        "has_map": inspection.map_sha256 is not None and inspection.map_stored,
        "judgement": None if judgement is None else as_json(judgement),
    }


def describe(name: str, detector: Detector) -> Json:
    """A detector that serves: its name, digest, thresholds by group and the rate that they keep to."""
    decisions = detector.decisions_
    thresholds = {group: part.threshold for group, part in decisions.parts.items()}
    return {
        "name": name,
        "digest": detector.manifest.digest,
        "thresholds": {group: value if math.isfinite(value) else None for group, value in thresholds.items()},
        "is_grouped": decisions.grouped,
        "false_alarm_rate": decisions.false_alarm_rate,
    }


def encode(event: str, values: Json, position: Position | None = None) -> bytes:
    """An event as it is sent."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    return format_sse_event(
        data_str=text, event=event, id=None if position is None else str(position), retry=RETRY_MILLISECONDS
    )
