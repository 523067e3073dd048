"""Hostile requests: each is refused with a reason, nothing is executed or written outside, and the service lives on."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_service import RunningService, noise, running
from stored_inspections import DETECTOR_FILE

Case = dict[str, Any]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with small limits."""
    store = tmp_path_factory.mktemp("target") / "parts.db"
    with running(DETECTOR_FILE, "--store", store, "--max-mb", 2, "--deadline", 2) as service:
        yield service


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_file(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG file that says this size, whatever pixels it has."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def form(content: bytes, name: str = "a.png", **fields: str) -> Case:
    return {"files": {"file": (name, content)}, "data": fields}


def chunks(size: int) -> Iterator[bytes]:
    """A body without a length."""
    for _ in range(size // 65536):
        yield b"\0" * 65536


SCRIPT = "<script>alert(1)</script>"
IMAGE = {"Content-Type": "image/png"}
CASES: dict[str, tuple[int, str, Case]] = {
    "a bomb of pixels": (422, "more", form(png_file(60_000, 60_000, bytes(1000)))),
    "a bomb that inflates": (422, "damaged", form(png_file(3000, 3000, bytes(5000)))),
    "a truncated image": (422, "damaged", form(noise()[:-30])),
    "a page that begins like an image": (422, "damaged", form(b"\x89PNG\r\n\x1a\n" + SCRIPT.encode())),
    "a page": (415, "is not a", form(SCRIPT.encode(), "page.html")),
    "an image of scripts": (415, "is not a", form(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg")),
    "an archive": (415, "is not a", form(b"PK\3\4" + bytes(100))),
    "an empty file": (422, "is empty", form(b"")),
    "no file": (422, "no image", {"files": [("lot", (None, b"A"))]}),
    "another type": (415, "multipart/form-data", {"content": b"{}", "headers": {"Content-Type": "application/json"}}),
    "no type": (415, "multipart/form-data", {"content": noise()}),
    "a compressed body": (
        415, "Content-Encoding", {"content": noise(), "headers": IMAGE | {"Content-Encoding": "gzip"}}),
    "a form without a boundary": (
        400, "boundary", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
    "a form that is none": (
        400, "multipart", {"content": b"\0" * 99, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}),
    "10,000 parts": (400, "Too many", {"files": [("file", ("a.png", b"x"))] * 10_000}),
    "10,000 fields": (400, "Too many", {"files": [("lot", (None, b"x"))] * 10_000}),
    "a long field": (400, "exceeded", form(noise(), lot="x" * 100_000)),
    "a long tag": (422, "lot", form(noise(), lot="x" * 201)),
    "a long name": (422, "name", form(noise(), "x" * 1500)),
    "an unknown field": (422, "is not a field", form(noise(), path="/etc/passwd")),
    "a file in another field": (422, "field `file`", {"files": {"image": ("a.png", noise())}}),
    "an unknown detector": (404, "no detector", form(noise(), detector="../../etc/passwd")),
    "a group that decides nothing": (422, "group", form(noise(), group="A")),
    "a large body": (413, "limit of 2 MB", form(noise() + bytes(3_000_000))),
    "an endless body": (413, "limit of 2 MB", {"content": chunks(50_000_000), "headers": IMAGE}),
    "a forged Host": (400, "--allow-host", form(noise()) | {"headers": {"Host": "evil.example"}}),
    "a forged Host like ours": (400, "--allow-host", form(noise()) | {"headers": {"Host": "localhost.evil.example"}}),
    "a Host with a name and an address": (400, "--allow-host", form(noise()) | {"headers": {"Host": "127.0.0.1@evil"}}),
    "a page of another origin": (403, "origin", form(noise()) | {"headers": {"Origin": "https://evil.example"}}),
    "a sandboxed page": (403, "origin", form(noise()) | {"headers": {"Origin": "null"}}),
    "another site": (403, "site", form(noise()) | {"headers": {"Sec-Fetch-Site": "cross-site"}}),
    "a site beside": (403, "site", form(noise()) | {"headers": {"Sec-Fetch-Site": "same-site"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_upload_is_refused_with_a_reason(name: str, target: RunningService) -> None:
    status, reason, case = CASES[name]
    try:
        response = target.client.post("/v1/inspect", **case)
    except httpx.TransportError:
        assert name == "an endless body", "only what does not end is cut off"
    else:
        assert response.status_code == status, response.text
        assert reason in response.text
        assert SCRIPT not in response.text or response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
    assert target.post("a.png", noise()).status_code == 200, "the service lives on"


@pytest.mark.parametrize(
    "name", ["../../../tmp/evil.png", "/etc/cron.d/evil", "C:\\evil.png", SCRIPT, "=cmd()", "a\0b"]
)
def test_a_name_or_tag_is_text_and_nothing_else(name: str, target: RunningService) -> None:
    folder = Path(target.store).parent
    before = {path for path in folder.rglob("*") if "sha256" not in path.parts}
    body = noise(1)
    fields = {"name": name, "lot": name, "map": "true"}
    answer = target.client.post("/v1/inspect", content=body, headers=IMAGE, params=fields).json()["inspections"][0]
    assert answer["lot"] == name.replace("\0", "\\x00")
    shown = target.client.get(f"/v1/inspections/{answer['id']}")
    assert shown.json()["name"] == name.replace("\0", "\\x00")
    assert shown.headers["content-type"] == "application/json"
    for kind in ("map", "image"):
        picture = target.client.get(f"/v1/inspections/{answer['id']}/{kind}.png")
        assert picture.headers["content-type"] == "image/png"
        assert picture.content != body
        assert "script-src 'self'" in picture.headers["content-security-policy"]
    assert {path for path in folder.rglob("*") if "sha256" not in path.parts} == before


@pytest.mark.parametrize(
    "path", ["/docs/../service.py", "/docs/%2e%2e/app.py", "/v1/inspections/..%2f..%2fetc/map.png", "/docs/docs.html"]
)
def test_no_address_becomes_a_path(path: str, target: RunningService) -> None:
    answer = target.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 422")), answer[:200]


def test_a_slow_body_is_refused_after_the_deadline(target: RunningService) -> None:
    head = "POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    answer = b""
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\x89PNG")
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert target.post("a.png", noise()).status_code == 200


@pytest.mark.parametrize(
    "raw", [b"\0\1\2\3\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]
)
def test_what_is_no_request_is_refused(raw: bytes, target: RunningService) -> None:
    assert target.send(raw).startswith(b"HTTP/1.1 400")
    assert target.post("a.png", noise()).status_code == 200
