from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from page_client import OPERATOR, URL, PageClient, page_client
from running_service import noise, png, running
from stored_inspections import DETECTOR_FILE

from oddlens.pages.station.routes import MAX_REASON


def inspect(client: PageClient, **fields: str) -> int:
    """Inspect noise, which is an anomaly, and return its id."""
    response = client.post("/v1/inspect", files={"file": ("a.png", noise())}, data=fields)
    number: int = response.json()["inspections"][0]["id"]
    return number


def judge(client: PageClient, number: int, **values: Any) -> httpx.Response:
    return client.post(f"/station/parts/{number}/judge", json={"verdict": "normal"} | values)


def test_the_pages_show_the_same_with_another_list_in_front(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        for path, tab in (("/", "last"), ("/station/review", "review")):
            response = client.get(path)
            assert (response.status_code, f'data-tab="{tab}">' in response.text) == (200, True)
            for inline in ("style=", "<style", "onclick", "<script>", "javascript:"):
                assert inline not in response.text


def test_a_judgement_has_who_made_it_and_can_be_undone_once(tmp_path: Path) -> None:
    with page_client(tmp_path, users=(OPERATOR,)) as client:
        client.log_in(OPERATOR)
        number = inspect(client)
        part = judge(client, number, reason="  dust ").json()
        assert (part["verdict"], part["judgement"]["verdict"]) == ("anomaly", "normal")
        assert (part["judgement"]["person"], part["judgement"]["reason"]) == (OPERATOR.name, "dust")
        undo = f"/station/judgements/{part['judgement']['id']}/withdraw"
        part = client.post(undo, json={}).json()
        assert part["judgement"] is None
        assert [judgement["withdraws"] for judgement in part["judgements"]] == [None, part["judgements"][0]["id"]]
        again = client.post(undo, json={})
        assert (again.status_code, "already" in again.json()["error"]) == (422, True)
        assert client.get(f"/station/parts/{number}").json() == part


@pytest.mark.parametrize(
    ("number", "values", "status"),
    [
        (1, {"verdict": "maybe"}, 422),
        (1, {"reason": "x" * (MAX_REASON + 1)}, 422),
        (1, {"person": "Eve"}, 422),
        (2, {}, 404),
        (2**70, {}, 404),
    ],
)
def test_what_is_no_judgement_is_refused(number: int, values: dict[str, str], status: int, tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        inspect(client)
        assert judge(client, number, **values).status_code == status
        assert client.get("/station/parts/1").json()["judgements"] == []


def test_pages_of_other_sites_and_people_without_a_login_judge_nothing(tmp_path: Path) -> None:
    with page_client(tmp_path, users=(OPERATOR,)) as client:
        assert judge(client, 1).status_code == 401
        client.log_in(OPERATOR)
        inspect(client)
        for path in ("/station/parts/1/judge", "/station/judgements/1/withdraw", "/station/shift"):
            response = client.post(path, json={"verdict": "normal"}, headers={"Origin": "http://evil.example"})
            assert response.status_code == 403
        assert client.post("/station/shift", headers={"Origin": URL}).status_code == 200


def test_the_queue_and_the_thumbnails_are_of_what_was_inspected(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        number = inspect(client, part="4711")
        (part,) = client.get("/station/queue").json()["parts"]
        assert (part["id"], part["part"], part["has_map"]) == (number, "4711", False)
        thumbnail = client.get(f"/station/parts/{number}/thumbnail.png")
        assert (thumbnail.status_code, thumbnail.headers["cache-control"]) == (200, "no-store")
        judge(client, number)
        assert client.get("/station/queue").json()["parts"] == []
        assert client.get("/station/parts/99/thumbnail.png").status_code == 404


def test_a_stream_tells_proxies_not_to_collect_and_starts_where_it_was(tmp_path: Path) -> None:
    image = png(np.zeros((8, 8), dtype=np.uint8))
    with running(DETECTOR_FILE, "--store", tmp_path / "parts.db") as service:
        service.post("a.png", image)
        service.post("b.png", image)
        with service.client.stream("GET", "/station/live") as response:
            next(line for line in response.iter_lines() if "b.png" in line)  # the stream has read both
        for address, headers in (("/station/live?after=1-0", {}), ("/station/live", {"Last-Event-ID": "1-0"})):
            with service.client.stream("GET", address, headers=headers) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                assert response.headers["x-accel-buffering"] == "no"
                assert response.headers["cache-control"] == "no-store"
                data = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
                parts = next(values["parts"] for values in data if values.get("parts"))  # none as long as it is unread
                assert [part["name"] for part in parts] == ["b.png"]


def test_open_streams_take_no_place_of_the_queue_and_end_with_the_service(tmp_path: Path) -> None:
    with running(DETECTOR_FILE, "--store", tmp_path / "parts.db", "--queue", 1) as service:
        ended, open_streams = list[str](), threading.Barrier(4, timeout=60)

        def listen() -> None:
            with httpx.stream("GET", f"{service.url}/station/live", timeout=60) as response:
                for i, line in enumerate(response.iter_lines()):
                    if i == 0:
                        open_streams.wait()
                        ended.append(line)

        threads = [threading.Thread(target=listen) for _ in range(3)]
        for thread in threads:
            thread.start()
        open_streams.wait()
        assert service.post("a.png", noise()).status_code == 200
        assert "oddlens_open_requests 1.0" in service.client.get("/metrics").text
        assert service.stop(signal.SIGTERM) == (0, "")
        for thread in threads:
            thread.join()
        assert ended == ["event: state"] * 3
