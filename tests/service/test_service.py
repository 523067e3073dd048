from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE, DIGEST, inspection, save_other

from oddlens.service.refusals import RefusalError
from oddlens.service.service import Service
from oddlens.store.store import NewInspection


def with_service(run: Any, **changes: Any) -> Any:
    """Run a coroutine function with an open service."""

    async def main() -> Any:
        service = Service(settings(DETECTOR_FILE, **changes))
        service.open()
        try:
            return await run(service)
        finally:
            await asyncio.to_thread(service.close)

    return asyncio.run(main())


async def refusal(coroutine: Coroutine[Any, Any, Any]) -> RefusalError:
    try:
        await coroutine
    except RefusalError as error:
        return error
    raise AssertionError("was not refused")


def test_images_beyond_the_queue_are_refused_until_some_are_done() -> None:
    async def run(service: Service) -> None:
        go_on = threading.Event()

        def work() -> list[NewInspection]:
            assert go_on.wait(60)
            return [(inspection(), b"", None)] * 2

        deadline = service.admit()
        first = asyncio.create_task(service.inspect(work, 2, deadline))
        await asyncio.sleep(0)
        assert service.queued == 2
        second = await refusal(service.inspect(work, 2, deadline))
        assert (second.status, second.headers) == (429, {"Retry-After": "1"})
        assert (await refusal(service.inspect(work, 4, deadline))).status == 413
        go_on.set()
        assert [number for number, _ in await first] == [None, None]
        assert service.queued == 0
        assert service.is_idle
        assert len(await service.inspect(work, 2, deadline)) == 2

    with_service(run, queue=3)


def test_work_past_its_deadline_is_refused_and_keeps_its_place_until_it_ends() -> None:
    async def run(service: Service) -> None:
        go_on, calls = threading.Event(), list[str]()

        def work() -> list[NewInspection]:
            calls.append("began")
            assert go_on.wait(60)
            return []

        deadline = service.admit()
        first, second = (asyncio.create_task(refusal(service.inspect(work, 1, deadline))) for _ in range(2))
        assert [(await task).status for task in (first, second)] == [504, 504]
        assert service.queued == 2
        go_on.set()
        while service.queued:
            await asyncio.sleep(0.01)
        assert calls == ["began"], "what nobody waits for any more is not begun"

    with_service(run, workers=1, deadline=0.2)


def test_a_service_that_starts_or_drains_takes_nothing() -> None:
    service = Service(settings(DETECTOR_FILE))
    with pytest.raises(RefusalError, match="starting") as starting:
        service.check_serving()
    assert starting.value.status == 503
    service.drain()
    service.open()
    with pytest.raises(RefusalError, match="draining") as draining:
        service.check_serving()
    assert draining.value.headers == {"Retry-After": "1", "Connection": "close"}
    service.close()


def test_a_detector_must_be_named_where_there_are_several() -> None:
    async def run(service: Service) -> None:
        assert service.detector("b")[0] == "b"
        for name, status in ((None, 422), ("c", 404)):
            with pytest.raises(RefusalError, match="a, b") as error:
                service.detector(name)
            assert error.value.status == status

    with_service(run, detectors={"a": DETECTOR_FILE, "b": DETECTOR_FILE})


def test_an_error_of_the_work_reaches_the_caller() -> None:
    async def run(service: Service) -> None:
        def work() -> list[NewInspection]:
            raise RefusalError(415, "no")

        assert (await refusal(service.inspect(work, 1, service.admit()))).status == 415
        assert service.queued == 0

    with_service(run)


def test_the_event_loop_is_told_of_each_commit_and_no_error_of_the_listener_reaches_a_request(tmp_path: Path) -> None:
    async def run(service: Service) -> None:
        loop, calls, errors = asyncio.get_running_loop(), list[tuple[int, bool]](), list[Any]()
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))

        def note() -> None:
            assert service.store is not None
            calls.append((service.store.counts()["n"], asyncio.get_running_loop() is loop))
            raise ZeroDivisionError

        service.on_commit.append(note)
        for i in range(2):
            items: list[NewInspection] = [(inspection(), b"%d" % i, None)] * 2
            assert len(await service.inspect(items.copy, 2, service.admit())) == 2
        await asyncio.sleep(0)
        assert calls == [(2, True), (4, True)]
        assert [type(error) for error in errors] == [ZeroDivisionError] * 2

        def fail() -> list[NewInspection]:
            raise RefusalError(415, "no")

        await refusal(service.inspect(fail, 1, service.admit()))
        await asyncio.sleep(0)
        assert len(calls) == 2

    with_service(run, store=str(tmp_path / "parts.db"))


def test_without_a_store_nothing_is_committed() -> None:
    async def run(service: Service) -> None:
        calls = list[int]()
        service.on_commit.append(lambda: calls.append(1))
        await service.inspect(lambda: [(inspection(), b"", None)], 1, service.admit())
        await asyncio.sleep(0)
        assert calls == []

    with_service(run)


def test_a_service_without_detectors_says_how_to_get_one(tmp_path: Path) -> None:
    async def run(service: Service) -> None:
        for name in (None, "part"):
            with pytest.raises(
                RefusalError, match=r"no detector is in service yet: .*oddlens serve part\.onnx"
            ) as error:
                service.detector(name)
            assert error.value.status == 404
        assert service.store is not None
        other = save_other(tmp_path / "other.onnx")
        service.store.add_detector(other, tmp_path / "other.onnx")
        await service.deploy("part", other.manifest.digest, person="Ann")
        assert service.detector(None)[0] == "part"

    (tmp_path / "photos").mkdir()
    with_service(run, detectors={}, root=tmp_path / "photos", store=str(tmp_path / "parts.db"))


def test_a_service_that_starts_deploys_nothing() -> None:
    with pytest.raises(RefusalError, match="starting"):
        asyncio.run(Service(settings(DETECTOR_FILE)).deploy("part", DIGEST, person="Ann"))
