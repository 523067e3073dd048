"""Soak of the operator's page: inspections at a rate while pages are open; prints a table and JSON.

    python benchmarks/pages_soak.py --seconds 600 --rate 20 --pages 3

It posts built-in tiles to `oddlens serve` with the detector of the tests, and notes when each inspection appears in the
strip of each page. The lag counts from the answer, which follows the commit, until the page shows the inspection or a
later one: of a burst longer than the strip, a page shows the newest, and passes the others over. Memory is the resident
memory of the service, what the browser's processes share with no other process (USS), and the heap of each page's
scripts (Linux). It needs Chromium, on the path or at $CHROMIUM, and playwright. Browser and service share the machine.
The exit code is 1 where a lag is over a second, or a page shows nothing of an inspection or later.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from http_load import Client
from report_pages import chromium
from running_service import png, running
from stored_inspections import DETECTOR_FILE

from oddlens.data.open import open_dataset

SAMPLE_SECONDS, WINDOWS, MAX_LAG = 5.0, 10, 1.0
IMAGES = 40
NAMES = ("p50", "p99", "max")
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


class Poster(threading.Thread):
    """Posts images at a steady rate; `answered` has the time of each answer by the name of the image."""

    def __init__(self, url: str, rate: float, seconds: float) -> None:
        super().__init__()
        self.url, self.rate, self.seconds = url, rate, seconds
        self.answered, self.refused = dict[str, float](), 0
        tiles = open_dataset("tiles").test
        self.images = [png(tiles.image(row)[..., 0]) for row in range(IMAGES)]

    def run(self) -> None:
        """Post until the time is over."""
        asyncio.run(self._post_all())

    async def _post_all(self) -> None:
        client, start, tasks = Client(f"{self.url}/v1/inspect"), time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(int(self.rate * self.seconds)):
            await asyncio.sleep(max(0.0, start + number / self.rate - time.perf_counter()))
            task = asyncio.create_task(self._post(client, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        client.close()

    async def _post(self, client: Client, number: int) -> None:
        name = f"soak-{number:06}.png"
        answer = await client.post((name, self.images[number % IMAGES]))
        if answer.status == 200:
            self.answered[name] = time.time()
        else:
            self.refused += 1


class Samples:
    """When each inspection appeared on each page, and memory now and then."""

    def __init__(self, pages: list[Any], service: int) -> None:
        self.pages, self.service = pages, psutil.Process(service)
        self.shown = [dict[str, float]() for _ in pages]
        self.megabytes: dict[str, list[float]] = {"service": [], "browser": [], "heaps": []}

    def take(self) -> None:
        """Read all of it once."""
        for page, shown in zip(self.pages, self.shown, strict=True):
            for name, milliseconds in page.evaluate(TAKE).items():
                shown.setdefault(name, milliseconds / 1000)
        self.megabytes["service"].append(self.service.memory_info().rss / 1e6)
        self.megabytes["browser"].append(browser_megabytes())
        self.megabytes["heaps"].append(sum(page.evaluate(HEAP) for page in self.pages))

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


def browser_megabytes() -> float:
    """The memory that the Chromium processes which this program started share with no other process (USS)."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss if "chrom" in process.name() else 0
    return total / 1e6


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Post while pages are open. Returns the figures."""
    with running(DETECTOR_FILE, "--store", folder / "parts.db") as service, chromium() as browser:
        pages = [browser.new_context(viewport={"width": 1280, "height": 800}).new_page() for _ in range(options.pages)]
        for page in pages:
            page.goto(service.url)
            page.wait_for_selector("#pulse[data-state=live]")
            page.evaluate(NOTE)
        samples, poster = Samples(pages, service.process.pid), Poster(service.url, options.rate, options.seconds)
        poster.start()
        is_last = False
        while not is_last:
            pages[0].wait_for_timeout(1000 * SAMPLE_SECONDS)  # sleeping would stop the browser's events
            is_last = not poster.is_alive()
            samples.take()
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
