"""Reports for tests: what is in one, and reports opened in a real Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import Evaluation, evaluate

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

PATIENCE = 300_000  # milliseconds: a test says what is wrong, not how busy the machine is


class Page(HTMLParser):
    """The tags, attributes and text by tag of a page, and the data of its script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: dict[str, list[str]] = defaultdict(list)
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in ("meta", "link", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text[self._open[-1]].append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]

    @property
    def data(self) -> dict[str, Any]:
        """The JSON that the page's script works on."""
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', self.source, re.DOTALL)
        assert found is not None
        result: dict[str, Any] = json.loads(found.group(1))
        return result


def digits_evaluation(detector: Detector, pixels: Pixels, names: tuple[str, ...] = ()) -> Evaluation:
    """An evaluation on 90 digits, a third of them with a bright or a dark bar across; pixels (N, 8, 8, 1)."""
    pixels = pixels[:90].copy()
    pixels[60:75, 3:5] = 255
    pixels[75:90, 3:5] = 0
    kinds = ("good",) * 60 + ("bright_bar",) * 15 + ("dark_bar",) * 15
    labels = np.repeat([0, 1], [60, 30])
    masks: list[np.ndarray | None] = [None] * 60 + [np.arange(8)[:, None].repeat(8, 1) // 2 == 1] * 30
    images = ImageSet.from_array(pixels, name="test", kind=kinds, label=labels, masks=masks)
    if names:
        images = ImageSet(names, kinds, images.labels, images.images, images.masks)
    return evaluate(detector, images)


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A running Chromium; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: install it, or set CHROMIUM to its path")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'oddlens[dev]'")
    with playwright.sync_playwright() as driver:
        options = [*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, address: Path | str, *, tolerated: str = "", **options: Any) -> Iterator[Any]:
    """A page from disk, or of a service, in Chromium; it must not complain, nor ask for anything outside."""
    url = address if isinstance(address, str) else address.resolve().as_uri()
    complaints: list[str] = []
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}} | options)
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if is_outside(request.url, url) else None)
    page.goto(url)
    yield page
    page.close()
    assert [text for text in complaints if not tolerated or tolerated not in text] == []


def is_outside(url: str, page: str) -> bool:
    """Whether an address is neither on the disk or service of a page nor one that holds its bytes."""
    start, _, _ = page.removeprefix("http://").partition("/")
    return not url.startswith(("data:", "blob:", f"http://{start}/" if page.startswith("http") else "file:"))
