"""A real service for tests, on a free port: `oddlens serve` in a process of its own, or a server in a thread."""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from oddlens.data.image_io import Pixels
from oddlens.service.app import Extension
from oddlens.service.server import run_server
from oddlens.service.service import Service
from oddlens.service.settings import ServiceSettings

TIMEOUT = 120.0  # seconds, for a machine that does much else


class RunningService:
    """The process, its address, and a client."""

    def __init__(self, process: subprocess.Popen[str], result: dict[str, Any], headers: dict[str, str]) -> None:
        self.process, self.url, self.store = process, str(result["url"]), result["store"]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT, headers=headers)

    def post(self, name: str, content: bytes, **fields: str) -> httpx.Response:
        """Post one image as a form."""
        return self.client.post("/v1/inspect", files={"file": (name, content)}, data=fields)

    def send(self, raw: bytes) -> bytes:
        """The answer to bytes as they are, until the service closes the connection or is silent for two seconds."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while part := connection.recv(65536):
                    answer += part
        return answer

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit code and what is on stderr."""
        self.client.close()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, errors


@contextlib.contextmanager
def running(*arguments: object, token: str = "", port: int = 0) -> Iterator[RunningService]:
    """`oddlens serve` with these arguments, once it serves; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "oddlens", "serve", *map(str, arguments), "--port", str(port), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    ) as process:
        try:
            assert process.stdout is not None
            lines = list(iter(process.stdout.readline, "}\n")) if process.poll() is None else []
            assert lines, "the service did not start: " + (process.stderr.read() if process.stderr else "")
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            service = RunningService(process, json.loads("".join([*lines, "}"])), headers)
            with service.client:
                yield service
        finally:
            process.kill()


@contextlib.contextmanager
def serving(settings: ServiceSettings, *extensions: Extension) -> Iterator[tuple[httpx.Client, Service]]:
    """A server in a thread of this process, once it serves: a client and the service."""
    ready: queue.SimpleQueue[tuple[str, Service] | None] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_server, settings, lambda *serving: ready.put(serving), extensions)
        running.add_done_callback(lambda _: ready.put(None))
        answer = ready.get()
        if answer is None:
            running.result()  # raises why it did not start
            raise AssertionError("the server ended before it served")
        url, service = answer
        try:
            with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
                yield client, service
        finally:
            service.drain()
            running.result(TIMEOUT)


def png(pixels: Pixels) -> bytes:
    """Pixels (H, W) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def noise(seed: int = 0) -> bytes:
    """A PNG file of noise, which is an anomaly among digits."""
    return png(np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8))


def post_all(service: RunningService, images: Sequence[tuple[str, bytes]], clients: int) -> list[httpx.Response]:
    """Post images one by one from several clients at once, each again while the queue is full."""

    def post(image: tuple[str, bytes]) -> httpx.Response:
        while (response := service.post(*image)).status_code == 429:
            pass
        return response

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(post, images))


def settings(detector: Path, **changes: Any) -> ServiceSettings:
    """Settings of a service of one detector, without a store."""
    values: dict[str, Any] = {"detectors": {"part": detector}, "workers": 2, "port": 0}
    return ServiceSettings(**values | changes)
