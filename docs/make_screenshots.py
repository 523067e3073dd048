"""Fit a detector to the built-in tiles, report its test, and take pictures of the report in light and dark.

    python docs/make_screenshots.py OUT

It needs the extras `train` and `dev`, and Chromium (on the path, or at $CHROMIUM). It takes a minute.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from oddlens.cli import app

WIDTH, HEIGHT = 1200, 1000


def main(folder: Path) -> None:
    """Write report.html and its screenshots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for words in (
        ["fit", "dataset:tiles", "-o", "tiles.safetensors", "--budget", "30s", "--seed", "0"],
        ["eval", "tiles.safetensors", "dataset:tiles", "--report", "report.html"],
    ):
        app(words, standalone_mode=False)
    with sync_playwright() as driver:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(Path("report.html").resolve().as_uri())
            take(page, f"report-{scheme}.png")
            page.locator("#scores").evaluate("(section) => section.scrollIntoView()")
            take(page, f"scores-{scheme}.png")
            page.locator("#gallery").evaluate("(section) => section.scrollIntoView()")
            take(page, f"gallery-{scheme}.png")
            page.locator("#threshold").evaluate(
                "(slider) => { slider.value = 0.2; slider.dispatchEvent(new Event('input')); }"
            )
            page.locator("#filters label", has_text="False alarms").click()
            take(page, f"moved-{scheme}.png")
            page.locator("#filters label", has_text="All").first.click()
            page.locator(".open:visible").nth(1).click()
            page.get_by_label("marked defect").check()
            page.locator("#opacity").fill("60")
            take(page, f"enlarged-{scheme}.png")
            page.keyboard.press("Escape")
            page.pdf(path="report.pdf", format="A4")
            page.close()
        browser.close()


def take(page: Any, name: str) -> None:
    """Write what the window shows."""
    page.wait_for_timeout(200)
    page.screenshot(path=name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/screenshots"))
