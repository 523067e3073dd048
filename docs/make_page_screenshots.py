"""Go through the pages of `oddlens serve --root` as a person does, and take pictures of each, light and dark.

    python docs/make_page_screenshots.py OUT [--method patchcore]

From photographs of built-in tiles to a running inspection, on a tablet and a phone. It needs the extras `train`,
`pretrained`, `serve` and `dev`, and Chromium (on the path, or at $CHROMIUM). It takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

from oddlens.data.open import open_dataset

PATIENCE = 600_000  # milliseconds, for the fit
TABLET, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
N_TRAIN, N_TEST = 150, 40


def write_photographs(folder: Path) -> None:
    """Write tiles as people have them: train/good, test/good and test/damaged."""
    data = open_dataset("tiles")
    good, damaged = (
        [i for i, label in enumerate(data.test.labels) if label == value][:N_TEST] for value in (0, 1)
    )  # fmt: skip
    for name, images, rows in (
        ("train/good", data.train, range(N_TRAIN)), ("test/good", data.test, good), ("test/damaged", data.test, damaged)
    ):  # fmt: skip
        (folder / name).mkdir(parents=True)
        for i in rows:
            Image.fromarray(images.image(i)[..., 0]).save(folder / name / f"{i:04}.png")


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a service with these photographs."""
    command = [sys.executable, "-m", "oddlens", "serve", "--root", str(folder / "photos"), "--store",
               str(folder / "parts.db"), "--port", "0", "--json", *arguments]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - this program
        try:
            lines = iter(process.stdout.readline, "}\n") if process.stdout else ()
            yield json.loads("".join([*lines, "}"]))["url"]
        finally:
            process.terminate()


class Photographer:
    """Takes pictures of a page in both schemes, and as a phone shows it."""

    def __init__(self, page: Any, folder: Path) -> None:
        self.page, self.folder = page, folder

    def take(self, name: str, height: int = 800) -> None:
        """Write NAME-light.png and NAME-dark.png, and as a phone shows the whole page NAME-phone-{light,dark}.png."""
        for kind, size in (("", TABLET | {"height": height}), ("phone-", PHONE)):
            self.page.set_viewport_size(size)
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme)
                self.page.wait_for_timeout(400)
                self.page.screenshot(path=self.folder / f"{name}-{kind}{scheme}.png", full_page=kind == "phone-")
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(TABLET)


def learn(page: Any, url: str, pictures: Photographer, method: str) -> None:
    """From photographs to a detector in service."""
    page.goto(url)
    page.get_by_role("link", name="Begin with photographs").wait_for()
    pictures.take("empty")
    page.get_by_role("link", name="Begin with photographs").click()
    page.get_by_role("heading", name="Begin with new photographs").wait_for()
    pictures.take("start")
    page.locator(".folder", has_text="tiles").get_by_role("button", name="Use these photographs").click()
    page.get_by_role("button", name="Continue: check the photographs").first.wait_for()
    pictures.take("photographs")
    page.get_by_role("link", name="Draw the area").click()
    pictures.take("area")
    page.go_back()
    page.get_by_role("button", name="Continue: check the photographs").first.click()
    page.locator("#progress").wait_for()
    pictures.take("checking")
    page.get_by_role("link", name="Continue: learn").first.wait_for()
    pictures.take("check")
    page.get_by_role("link", name="Continue: learn").first.click()
    pictures.take("fit")
    start(page, method)
    page.locator("#progress", has_text="Learning").wait_for()
    pictures.take("progress")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("heading", name="Learning is paused").wait_for()
    pictures.take("paused")
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("heading", name="How good is it?").wait_for()
    pictures.take("result")
    page.get_by_role("link", name="Make it stricter or milder").first.click()
    page.locator("#chart canvas").wait_for()
    pictures.take("threshold", 1160)
    page.locator("#slider").focus()
    page.keyboard.press("End")
    page.get_by_role("button", name="Use this strictness").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("heading", name="Two detectors side by side").wait_for()
    pictures.take("compare")
    page.get_by_role("link", name="Back to the result").click()
    page.get_by_role("link", name="As learned").click()
    page.get_by_role("link", name="Put it into service").first.click()
    page.get_by_role("heading", name="Put it into service").wait_for()
    pictures.take("deploy")
    page.get_by_role("button", name="Put into service").click()
    page.get_by_text("is in service now").wait_for()
    pictures.take("service")
    page.get_by_role("button", name="Take out of service").click()
    pictures.take("out")
    page.goto(f"{url}/learn/jobs/0000000000000000")
    pictures.take("error")


def start(page: Any, method: str) -> None:
    """Start learning by a method."""
    if method != "auto":
        page.get_by_text("More settings").click()
        page.get_by_label("Method").select_option(method)
    page.get_by_role("button", name="Start learning").click()


def inspect(page: Any, url: str, folder: Path, pictures: Photographer) -> None:
    """Parts come, and the page shows them."""
    page.goto(url)
    page.wait_for_selector("#pulse[data-state=live]")
    parts = sorted((folder / "photos/tiles/test/good").iterdir())[:11]
    parts[6:6] = sorted((folder / "photos/tiles/test/damaged").iterdir())[:2]
    damaged = sorted((folder / "photos/tiles/test/damaged").iterdir())[20]
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, path in enumerate([*parts, damaged], 4711):
            files = {"file": (f"part-{number}.png", path.read_bytes())}
            client.post("/v1/inspect", files=files, data={"lot": "A7", "map": "true"}).raise_for_status()
    page.wait_for_timeout(2000)
    pictures.take("inspection")
    for key, name in (("o", "override"), ("?", "keys")):
        page.keyboard.press(key)
        pictures.take(name)
        page.keyboard.press("Escape")
    page.goto(f"{url}/station/review")
    page.wait_for_timeout(1500)
    pictures.take("review")
    page.goto(f"{url}/components")
    pictures.take("components")
    page.goto(url)
    page.wait_for_selector("#strip .tile")


def log_in(page: Any, url: str, pictures: Photographer) -> None:
    """Where people log in."""
    page.goto(f"{url}/")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.locator("#failed").wait_for()
    pictures.take("login")


def main(out: Path, method: str) -> None:
    """Write the pictures into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        write_photographs(folder / "photos/tiles")
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        with serving(folder) as url:
            page = browser.new_page(viewport=TABLET, locale="en")
            page.set_default_timeout(PATIENCE)
            pictures = Photographer(page, out)
            learn(page, url, pictures, method)
            inspect(page, url, folder, pictures)
        page.locator("#lost").wait_for()
        pictures.take("lost")
        (folder / "people").touch(mode=0o600)
        (folder / "people").write_text("ann engineer a-token-for-a-picture-only")
        with serving(folder, "--token-file", str(folder / "people")) as url:
            log_in(page, url, pictures)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pictures of the pages.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/screenshots"))
    parser.add_argument("--method", default="auto", help="of learning; patchcore is quick")
    options = parser.parse_args()
    main(options.out, options.method)
