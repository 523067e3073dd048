from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE, add_some, inspection

from oddlens.errors import StoreError
from oddlens.pages.station import live
from oddlens.pages.station.live import LiveStream, Position, Subscriber
from oddlens.service.refusals import RefusalError
from oddlens.service.service import Service
from oddlens.store.inspection import StoredInspection
from oddlens.store.store import Store

Events = AsyncIterator[bytes]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams look and tick more often than those of a service, so that tests wait less."""
    monkeypatch.setattr(live, "POLL_SECONDS", 0.15)
    monkeypatch.setattr(live, "TICK_SECONDS", 0.05)


def with_stream(tmp_path: Path, run: Callable[[LiveStream, Store], Awaitable[None]]) -> None:
    """Run a coroutine function beside a stream of an open service, which drains at its end."""

    async def main() -> None:
        service = Service(settings(DETECTOR_FILE, store=str(tmp_path / "parts.db")))
        service.open()
        assert service.store is not None
        stream = LiveStream(service)
        running = asyncio.create_task(stream.run())
        try:
            async with asyncio.timeout(120):
                while not stream.is_ready:
                    await asyncio.sleep(0.01)
                await run(stream, service.store)
                service.drain()
                await running
        finally:
            running.cancel()
            await asyncio.to_thread(service.close)

    asyncio.run(main())


def parse(event: bytes) -> tuple[str, str | None, dict[str, Any]]:
    """The name, the id and the values of an event."""
    assert event.endswith(b"\n\n")
    fields = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
    return fields["event"], fields.get("id"), json.loads(fields["data"])


async def read(events: Events, name: str) -> tuple[str | None, dict[str, Any]]:
    """The next event of a name; beats come in between."""
    async for event in events:
        kind, number, values = parse(event)
        if kind == name:
            return number, values
        assert "beat" in (kind, name)
    raise AssertionError("the stream ended")


async def add(store: Store, count: int, **changes: object) -> list[int]:
    return await asyncio.to_thread(add_some, store, count, **changes)


def numbers(values: dict[str, Any], name: str = "parts") -> list[int]:
    return [part["id"] for part in values[name]]


def test_a_page_gets_the_present_state_and_then_what_is_new(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        position, state = await read(events, "state")
        assert (position, state["parts"], state["shift"]["n"]) == ("0-0", [], 0)
        assert [detector["name"] for detector in state["detectors"]] == ["part"]
        assert state["detectors"][0]["thresholds"].keys() == {""}
        ids = await add(store, 2) + await add(store, 1, verdict="anomaly", part="4711")
        seen = list[int]()
        while len(seen) < 3:
            position, values = await read(events, "parts")
            seen += numbers(values)
        assert (seen, position) == (ids, "3-0")
        assert (values["shift"]["n"], values["shift"]["n_anomalous"]) == (3, 1)
        assert (values["parts"][-1]["part"], values["parts"][-1]["has_map"]) == ("4711", False)
        _, state = await read(stream.open(None), "state")
        assert (numbers(state), numbers(state, "anomalies")) == (ids, ids[2:])

    with_stream(tmp_path, run)


def test_judgements_and_their_undoing_reach_all_pages(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events = [stream.open(None), stream.open(None)]
        for one in events:
            await read(one, "state")
        (number,) = await add(store, 1, verdict="anomaly")
        for one in events:
            assert (await read(one, "parts"))[1]["parts"][0]["judgement"] is None
        judgement = await asyncio.to_thread(store.judge, number, "normal", person="Anna", reason="dust")
        for one in events:
            position, values = await read(one, "parts")
            assert position == "1-1"
            assert values["parts"][0]["judgement"]["reason"] == "dust"
            assert values["shift"]["n_false_alarms"] == 1
        await asyncio.to_thread(store.withdraw, judgement.id, person="Anna")
        for one in events:
            _, values = await read(one, "parts")
            assert values["parts"][0]["judgement"] is None
            assert values["shift"]["n_false_alarms"] == 0

    with_stream(tmp_path, run)


def test_a_page_that_comes_back_misses_nothing(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        first, *rest = await add(store, 10)
        await asyncio.to_thread(store.judge, first, "anomaly", person="Anna")
        while stream.position != Position(10, 1):
            await asyncio.sleep(0.01)
        position, values = await read(stream.open("1-0"), "parts")
        assert position == "10-1"
        assert numbers(values) == [*rest, first]
        for now in ("10-1", "11-0", "0-0-0", "x", ""):
            events = stream.open(now)
            kind, _, values = parse(await anext(events))
            assert kind == ("parts" if now == "10-1" else "state"), now
            assert len(values["parts"]) == (0 if now == "10-1" else 10)

    with_stream(tmp_path, run)


def test_a_page_that_missed_too_much_gets_the_present_state(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        ids = await add(store, live.PAGE + 5)
        while stream.position.inspection < len(ids):
            await asyncio.sleep(0.01)
        _, state = await read(stream.open("3-0"), "state")
        assert numbers(state) == ids[-live.SHOWN :]
        _, values = await read(stream.open("10-0"), "parts")
        assert numbers(values) == ids[10:]

    with_stream(tmp_path, run)


def test_a_slow_page_loses_events_and_gets_the_present_state(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        slow, fast = stream.open(None), stream.open(None)
        await read(slow, "state")
        await read(fast, "state")
        for i in range(live.QUEUE + 5):
            stream._publish(b"event %d\n\n" % i)
            assert await anext(fast) == b"event %d\n\n" % i
        (number,) = await add(store, 1)
        while stream.position.inspection < number:
            await asyncio.sleep(0.01)
        _, state = await read(slow, "state")
        assert numbers(state) == [number]

    with_stream(tmp_path, run)


def test_what_waits_for_a_page_is_bounded_and_its_end_arrives() -> None:
    async def run() -> None:
        subscriber = Subscriber()
        for _ in range(10 * live.QUEUE):
            subscriber.put(b"")
        assert subscriber.is_behind
        waiting = 0
        subscriber.put(None)
        while await subscriber.next() is not None:
            waiting += 1
        assert waiting < live.QUEUE

    asyncio.run(run())


def test_streams_end_when_the_service_drains(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await read(events, "state")
        stream.service.drain()
        async for _ in events:
            pass
        with pytest.raises(RefusalError, match="draining"):
            stream.open(None)
        assert stream.service.on_commit == []

    with_stream(tmp_path, run)


def test_a_page_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await read(events, "state")
        assert len(stream._subscribers) == 1
        await events.aclose()  # type: ignore[attr-defined]
        assert not stream._subscribers

    with_stream(tmp_path, run)


def test_pages_are_no_more_than_the_server_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_PAGES", 1)

    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await read(events, "state")
        with pytest.raises(RefusalError, match="pages are open") as refused:
            stream.open(None)
        assert refused.value.status == 503

    with_stream(tmp_path, run)


def test_a_store_that_cannot_be_read_is_told_and_read_again(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await read(events, "state")
        read_after = store.inspections_after

        def fail(last: int, limit: int = 0) -> list[StoredInspection]:
            raise StoreError("gone")

        store.inspections_after = fail  # type: ignore[method-assign]
        while not (await read(events, "beat"))[1]["is_failing"]:
            pass
        store.inspections_after = read_after  # type: ignore[method-assign]
        ids = await add(store, 1)
        _, values = await read(events, "parts")
        assert (numbers(values), values["is_failing"]) == (ids, False)

    with_stream(tmp_path, run)


def test_the_event_loop_does_not_wait_for_the_store(tmp_path: Path) -> None:
    async def run(stream: LiveStream, store: Store) -> None:
        events, go_on = stream.open(None), threading.Event()
        await read(events, "state")
        read_after = store.inspections_after

        def wait(last: int, limit: int = 0) -> list[StoredInspection]:
            assert go_on.wait(60)
            return read_after(last, limit)

        store.inspections_after = wait  # type: ignore[method-assign]
        for _ in range(2):
            await read(events, "beat")
        go_on.set()

    with_stream(tmp_path, run)


def test_a_shift_can_begin_now_and_outlives_the_server(tmp_path: Path) -> None:
    async def begin(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await add(store, 3)
        while (await read(events, "beat"))[1]["shift"]["n"] < 3:
            pass
        await asyncio.to_thread(stream.begin_shift, "Anna")
        while (await read(events, "beat"))[1]["shift"]["n"] > 0:
            pass
        (action,) = store.actions()
        for _ in range(150):
            await asyncio.to_thread(store.record_action, "other", "", person="Bert")
        assert (action.person, action.action) == ("Anna", live.SHIFT_ACTION)

    async def again(stream: LiveStream, store: Store) -> None:
        _, state = await read(stream.open(None), "state")
        assert (state["shift"]["n"], len(state["parts"])) == (0, 3)
        assert state["shift"]["start"] == store.actions(limit=1000)[-1].time.isoformat()

    with_stream(tmp_path, begin)
    with_stream(tmp_path, again)


def test_a_shift_that_was_begun_long_ago_does_not_count_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boundary = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(live, "shift_start", lambda now: boundary)

    async def run(stream: LiveStream, store: Store) -> None:
        await asyncio.to_thread(stream.begin_shift, "Anna")
        await add(store, 1, time=boundary + timedelta(seconds=1))
        events = stream.open(None)
        while (values := (await read(events, "beat"))[1])["shift"]["n"] < 1:
            pass
        assert values["shift"]["start"] == boundary.isoformat()

    with_stream(tmp_path, run)


def test_what_is_committed_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 1e6)

    async def run(stream: LiveStream, store: Store) -> None:
        events = stream.open(None)
        await read(events, "state")
        item = (inspection(detector_digest=stream.service.detectors["part"].manifest.digest), b"", None)
        await stream.service.inspect(lambda: [item], 1, asyncio.get_running_loop().time() + 60)
        assert numbers((await read(events, "parts"))[1]) == [1]

    with_stream(tmp_path, run)
