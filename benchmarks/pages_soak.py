"""Soak of the operator's page: inspections at a rate while pages are open; prints a table and JSON.

    python benchmarks/pages_soak.py --seconds 600 --rate 20 --pages 3

It posts built-in tiles to `oddlens serve` with the detector of the tests, and notes when each inspection appears in the
strip of each page. The lag counts from the answer, which follows the commit, until the page shows the inspection or a
later one: of a burst longer than the strip, a page shows the newest, and passes the others over. Memory is the resident
memory of the service, what the browser's processes share with no other process (USS), and the heap of each page's
scripts (Linux). It needs Chromium, on the path or at $CHROMIUM. Browser and service share the machine.
The exit code is 1 where a lag is over a second, or a page shows nothing of an inspection or later.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from http_load import Client
from report_pages import CHROMIUM
from running_service import png, running
from stored_inspections import DETECTOR_FILE

from oddlens.data.open import open_dataset

SAMPLE_SECONDS, WINDOWS, MAX_LAG = 5.0, 10, 1.0
IMAGES = 40
NAMES = ("p50", "p99", "max")
LIVE = "document.querySelector('#pulse')?.dataset.state === 'live'"
NOTE = """(() => {
    window.shown = {};
    const note = () => {
        for (const tile of document.querySelectorAll("#strip .tile")) window.shown[tile.title] ??= Date.now();
    };
    const strip = document.querySelector("#strip ol");
    new MutationObserver(note).observe(strip, { childList: true, subtree: true, attributeFilter: ["title"] });
})()"""
TAKE = "(() => { const shown = window.shown; window.shown = {}; return shown; })()"
HEAP = "performance.memory.usedJSHeapSize / 1e6"


class Poster:
    """Posts images at a steady rate; `answered` has the time of each answer by the name of the image."""

    def __init__(self, url: str, rate: float, seconds: float) -> None:
        self.url, self.rate, self.seconds = url, rate, seconds
        self.answered, self.refused = dict[str, float](), 0
        tiles = open_dataset("tiles").test
        self.images = [png(tiles.image(row)[..., 0]) for row in range(IMAGES)]

    async def run(self) -> None:
        """Post until the time is over."""
        client, start = Client(f"{self.url}/v1/inspect"), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(self.rate * self.seconds)):
                await asyncio.sleep(max(0.0, start + number / self.rate - time.perf_counter()))
                group.create_task(self._post(client, number))
        client.close()

    async def _post(self, client: Client, number: int) -> None:
        name = f"soak-{number:06}.png"
        answer = await client.post((name, self.images[number % IMAGES]))
        if answer.status == 200:
            self.answered[name] = time.time()
        else:
            self.refused += 1


class Browser:
    """A Chromium of our own, with a window for each page, that is asked for values only.

    playwright, as DevTools, has the browser tell it about the network, for which each page keeps what it has fetched:
    its memory would be that of the test.
    """

    def __init__(self, process: asyncio.subprocess.Process, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.process, self.connection = process, connection
        self._numbers = itertools.count()

    async def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        await self.connection.send_json(message if session is None else message | {"sessionId": session})
        while (answer := await self.connection.receive_json()).get("id") != number:
            pass  # an event
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> str:
        """Open a page in a window of its own; returns the session in which it is asked."""
        target = await self.ask("Target.createTarget", url=url, newWindow=True, width=1280, height=800)
        session = await self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return str(session["sessionId"])

    async def evaluate(self, session: str, expression: str) -> Any:
        """The value of a JavaScript expression on a page."""
        answer = await self.ask("Runtime.evaluate", session, expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def megabytes(self) -> float:
        """The memory that its processes share with no other process (USS)."""
        total = 0
        process = psutil.Process(self.process.pid)
        for part in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += part.memory_full_info().uss
        return total / 1e6


@contextlib.asynccontextmanager
async def running_browser(profile: Path) -> AsyncIterator[Browser]:
    """Start Chromium without a screen, and end it."""
    arguments = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
    arguments += ["--no-sandbox"] * (os.geteuid() == 0) + ["about:blank"]
    pipe = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(str(CHROMIUM), *arguments, stdout=pipe, stderr=pipe)
    try:
        address = profile / "DevToolsActivePort"
        while not address.exists() or len(address.read_text().splitlines()) < 2:
            await asyncio.sleep(0.1)
        port, path = address.read_text().splitlines()
        async with aiohttp.ClientSession() as client, client.ws_connect(f"ws://127.0.0.1:{port}{path}") as connection:
            yield Browser(process, connection)
    finally:
        process.terminate()
        await process.wait()


class Samples:
    """When each inspection appeared on each page, and memory now and then."""

    def __init__(self, browser: Browser, pages: list[str], service: int) -> None:
        self.browser, self.pages, self.service = browser, pages, psutil.Process(service)
        self.shown = [dict[str, float]() for _ in pages]
        self.megabytes: dict[str, list[float]] = {"service": [], "browser": [], "heaps": []}

    async def take(self) -> None:
        """Read all of it once."""
        for page, shown in zip(self.pages, self.shown, strict=True):
            for name, milliseconds in (await self.browser.evaluate(page, TAKE)).items():
                shown.setdefault(name, milliseconds / 1000)
        self.megabytes["service"].append(self.service.memory_info().rss / 1e6)
        self.megabytes["browser"].append(self.browser.megabytes())
        self.megabytes["heaps"].append(sum([await self.browser.evaluate(page, HEAP) for page in self.pages]))

    def lags(self, answered: dict[str, float]) -> list[list[float]]:
        """For each page the seconds from each answer until it showed the inspection or a later one, if it ever did."""
        pages = list[list[float]]()
        for shown in self.shown:
            lags, first = list[float](), float("inf")
            for name in sorted(answered, reverse=True):
                first = min(first, shown.get(name, first))
                if first < float("inf"):
                    lags.append(first - answered[name])
            pages.append(lags)
        return pages


async def load(options: argparse.Namespace, url: str, service: int, folder: Path) -> tuple[Poster, Samples]:
    """Post while pages are open."""
    poster = Poster(url, options.rate, options.seconds)
    async with running_browser(folder / "browser") as browser:
        pages = [await browser.open(url) for _ in range(options.pages)]
        for page in pages:
            while not await browser.evaluate(page, LIVE):
                await asyncio.sleep(0.1)
            await browser.evaluate(page, NOTE)
        samples, posting = Samples(browser, pages, service), asyncio.create_task(poster.run())
        is_last = False
        while not is_last:
            await asyncio.sleep(SAMPLE_SECONDS)
            is_last = posting.done()
            await samples.take()
        await posting
    return poster, samples


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Post to a service while pages are open. Returns the figures."""
    with running(DETECTOR_FILE, "--store", folder / "parts.db") as service:
        poster, samples = asyncio.run(load(options, service.url, service.process.pid, folder))
        code, errors = service.stop()
    lags = samples.lags(poster.answered)
    return {
        "machine": platform.platform(),
        "seconds": options.seconds,
        "rate": options.rate,
        "n": len(poster.answered),
        "refused": poster.refused,
        "missing": [len(poster.answered) - len(row) for row in lags],
        "passed_over": [len(poster.answered.keys() - shown.keys()) for shown in samples.shown],
        "lag": [dict(zip(NAMES, np.percentile(row, [50, 99, 100]).round(3).tolist(), strict=True)) for row in lags],
        "over_1_s": [sum(lag > MAX_LAG for lag in row) for row in lags],
        "median_megabytes_in_tenths": {
            name: [round(float(np.median(part)), 1) for part in np.array_split(values, WINDOWS) if len(part)]
            for name, values in samples.megabytes.items()
        },
        "exit": code,
        "stderr": errors,
    }


def main() -> int:
    """Soak, and print what was measured. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Soak of the operator's page.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=20, help="inspections a second")
    parser.add_argument("--pages", type=int, default=3)
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("Chromium is missing: install it, or set CHROMIUM to its path")
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(options, Path(folder))
    print(f"{figures['n']} inspections, {figures['refused']} refused")
    print("| page | lag p50 | p99 | max | over 1 s | missing | passed over |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, lag in enumerate(figures["lag"]):
        late, missing, passed = (figures[name][number] for name in ("over_1_s", "missing", "passed_over"))
        print(f"| {number + 1} | {lag['p50']} s | {lag['p99']} s | {lag['max']} s | {late} | {missing} | {passed} |")
    print("| memory, medians of tenths (MB) | |\n| --- | --- |")
    for name, values in figures["median_megabytes_in_tenths"].items():
        print(f"| {name} | {', '.join(map(str, values))} |")
    print(json.dumps(figures))
    return int(any(figures["over_1_s"]) or any(figures["missing"]) or figures["exit"] != 0)


if __name__ == "__main__":
    sys.exit(main())
