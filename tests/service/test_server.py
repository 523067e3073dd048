from __future__ import annotations

import asyncio
import contextlib
import csv
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from command_line import error_of, oddlens, run_json
from fastapi import FastAPI
from running_service import RunningService, noise, post_all, running, serving, settings
from small_disk import fill, small_disk
from stored_inspections import DETECTOR_FILE

from oddlens.errors import SettingsError
from oddlens.service.server import address, open_listener
from oddlens.service.service import Service
from oddlens.store.open import open_store

Images = list[tuple[str, bytes]]


def test_the_answers_to_16_clients_are_those_of_the_command_line_and_in_the_store(
    service: RunningService, images: Images, tmp_path: Path
) -> None:
    answers = [response.json()["inspections"][0] for response in post_all(service, images, 16)]
    assert [answer["name"] for answer in answers] == [name for name, _ in images]
    for name, content in images:
        (tmp_path / name).write_bytes(content)
    done = oddlens("score", DETECTOR_FILE, tmp_path, "-o", tmp_path / "verdicts.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "verdicts.csv").read_text().splitlines()))
    for name in ("anomaly_score", "p_value", "threshold"):
        expected = [float(row[name]) for row in rows]
        np.testing.assert_allclose([answer[name] for answer in answers], expected, rtol=1e-5, err_msg=name)
    assert [answer["verdict"] for answer in answers] == [row["verdict"] for row in rows]
    assert len({answer["id"] for answer in answers}) == 300
    with open_store(service.store) as store:
        for answer, (name, content) in zip(answers, images, strict=True):
            stored = store.inspection(answer["id"])
            assert (stored.name, stored.anomaly_score, stored.batch_size) == (name, answer["anomaly_score"], 1)
            assert store.image(stored) == content


def test_every_acknowledged_inspection_survives_kills(images: Images, url: str) -> None:
    acknowledged: dict[int, str] = {}
    for _ in range(3):
        with running(DETECTOR_FILE, "--store", url) as service, ThreadPoolExecutor(8) as pool:
            enough = threading.Event()

            def post(
                image: tuple[str, bytes], service: RunningService = service, enough: threading.Event = enough
            ) -> None:
                try:
                    answer = service.post(*image).json()["inspections"][0]
                except httpx.TransportError:
                    return
                acknowledged[answer["id"]] = answer["name"]
                if len(acknowledged) % 20 == 0:
                    enough.set()

            posts = [pool.submit(post, image) for image in images]
            assert enough.wait(60)
            service.process.send_signal(signal.SIGKILL)
            service.process.wait()
            for future in posts:
                future.result()
    assert len(acknowledged) >= 60
    with open_store(url) as store:
        assert store.check() == []
        assert {number: store.inspection(number).name for number in acknowledged} == acknowledged


def test_what_was_answered_is_audited_and_outlives_its_image(images: Images, url: str) -> None:
    with running(DETECTOR_FILE, "--store", url) as service:
        first, second = [service.post(*image, lot="A7", map="true").json()["inspections"][0] for image in images[:2]]
        audit = run_json("store", "audit", first["id"], "--store", url)
        assert audit["repeated"]["same_bits"]
        assert audit["repeated"]["anomaly_score"] == first["anomaly_score"]
        assert (audit["repeated"]["verdict"], audit["inspection"]["lot"]) == (first["verdict"], "A7")
        assert service.client.get(f"/v1/inspections/{first['id']}/image.png").status_code == 200
        run_json("store", "prune", "--store", url, "--keep-gb", 0)
        for name in ("image.png", "map.png"):
            answer = service.client.get(f"/v1/inspections/{first['id']}/{name}")
            assert (answer.status_code, "expired" in answer.json()["error"]) == (404, True)
        stored = service.client.get(f"/v1/inspections/{second['id']}").json()
        assert (stored["anomaly_score"], stored["image_stored"]) == (second["anomaly_score"], False)
        assert "expired" in run_json("store", "audit", first["id"], "--store", url)["reason"]
        assert service.post(*images[2]).status_code == 200, "the detector's file is stored again"
    with open_store(url) as store:
        assert store.check() == []


def test_a_full_disk_is_507_until_there_is_room_and_damages_nothing(images: Images, tmp_path: Path) -> None:
    with small_disk(tmp_path, 4) as folder, running(DETECTOR_FILE, "--store", folder / "parts.db") as service:
        answers = [service.post(*image).json()["inspections"][0]["id"] for image in images[:3]]
        filler = fill(folder)
        refused = [answer for answer in (service.post(*image) for image in images[3:100]) if not answer.is_success]
        assert {response.status_code for response in refused} == {507}
        assert "free some space" in refused[-1].json()["error"]
        assert refused[-1].headers["retry-after"]
        assert service.client.get(f"/v1/inspections/{answers[0]}").status_code == 200
        filler.unlink()
        assert service.post(*images[100]).status_code == 200
        assert service.stop() == (0, "")
        with open_store(service.store) as store:
            assert store.check() == []
            assert store.counts()["n"] == 3 + (97 - len(refused)) + 1


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(images: Images, tmp_path: Path) -> None:
    with running(DETECTOR_FILE, "--store", tmp_path / "parts.db") as service:
        with service.client.stream("POST", "/v1/inspect", content=slow_body(service), headers=PNG) as response:
            answer = response.read()
        assert response.status_code == 200, answer
        _, errors = service.process.communicate(timeout=60)
        assert (service.process.returncode, errors) == (0, "")
    with open_store(str(tmp_path / "parts.db")) as store:
        assert [stored.name for stored in store.inspections()] == ["image"]


PNG = {"Content-Type": "image/png"}


def slow_body(service: RunningService) -> Iterator[bytes]:
    """An image of which the second half is sent only once the service drains."""
    content = noise()
    yield content[:100]
    while "oddlens_open_requests 2.0" not in httpx.get(f"{service.url}/metrics").text:  # this one, and that
        time.sleep(0.01)
    service.process.send_signal(signal.SIGTERM)
    while httpx.get(f"{service.url}/v2/health/ready").status_code != 503:
        time.sleep(0.01)
    refused = httpx.post(f"{service.url}/v1/inspect", content=content, headers=PNG)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "draining" in refused.json()["error"]
    yield content[100:]


def test_a_second_signal_ends_the_service_at_once() -> None:
    with running(DETECTOR_FILE, "--no-store") as service, socket.create_connection(("127.0.0.1", service.port)) as body:
        body.sendall(b"POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n")
        body.sendall(b"Content-Length: 1000\r\n\r\n")
        while "oddlens_open_requests 2.0" not in httpx.get(f"{service.url}/metrics").text:
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{service.url}/v2/health/ready").status_code != 503:
            time.sleep(0.01)
        assert service.stop() == (1, "")


def test_a_detector_that_cannot_be_loaded_ends_the_service(tmp_path: Path) -> None:
    (tmp_path / "part.onnx").write_bytes(DETECTOR_FILE.read_bytes()[:-5000])
    assert "part.onnx" in error_of("serve", tmp_path / "part.onnx", "--port", 0)


def test_an_address_in_use_is_refused(service: RunningService) -> None:
    with pytest.raises(SettingsError, match=f"port {service.port} .*in use"):
        open_listener("127.0.0.1", service.port)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on nowhere\.invalid"):
        open_listener("nowhere.invalid", 0)


def test_the_address_of_an_ipv6_host_is_in_brackets() -> None:
    assert address("::1", 8000) == "http://[::1]:8000"


class Noting:
    """An extension that notes what happens to it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.events = list[str]()

    def attach(self, app: FastAPI, service: Service) -> None:
        self.service = service
        self.events.append(f"attached, {service.state}, store {service.store is not None}")

        @app.get("/events")
        async def events() -> list[str]:
            return self.events

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        assert self.service.store is not None
        self.events.append(f"entered, {self.service.state}, {self.service.detectors.names}")
        task = asyncio.current_task()
        if self.error is not None:
            raise self.error
        try:
            yield
        finally:
            assert asyncio.current_task() is task, "task groups must be entered and left in one task"
            self.events.append(f"left, {self.service.state}, {self.service.store.counts()['n']} stored")


def test_an_extension_has_routes_behind_the_guard_and_runs_while_the_service_is_open(tmp_path: Path) -> None:
    first, second = Noting(), Noting()
    with serving(settings(DETECTOR_FILE, store=str(tmp_path / "parts.db")), first, second) as (client, service):
        assert client.get("/events").json() == ["attached, starting, store False", "entered, starting, ['part']"]
        refused = client.get("/events", headers={"Host": "other.example"})
        assert (refused.status_code, service.state) == (400, "serving")
        assert client.post("/v1/inspect", files={"file": ("a.png", noise())}).status_code == 200
    assert first.events == second.events
    assert first.events[2:] == ["left, draining, 1 stored"]


@pytest.mark.parametrize("error", [SettingsError("no folder"), ZeroDivisionError("a bug")])
def test_an_extension_that_fails_ends_the_service(error: Exception, tmp_path: Path) -> None:
    first = Noting()
    with (
        pytest.raises(type(error), match=str(error)),
        serving(settings(DETECTOR_FILE, store=str(tmp_path / "parts.db")), first, Noting(error)),
    ):
        raise AssertionError("serves")
    assert first.events[2:] == ["left, starting, 0 stored"]
