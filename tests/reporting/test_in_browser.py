"""The report in a real Chromium, from disk: everything follows the threshold, by mouse, by touch and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe import axe_source, violations
from report_pages import digits_evaluation, open_page

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import Evaluation
from oddlens.metrics import rate_interval
from oddlens.reporting.evaluation_report import write_evaluation_report

HOSTILE = "<img src=x onerror=alert(1)></script>{{ 7 * 7 }}.png"
HISTORY = [{"epoch": 1, "loss": 2.0, "seconds": 1.0}, {"epoch": 2, "loss": 1.0}, {"epoch": 3, "loss": 0.9}]


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, digits: DataSet) -> Evaluation:
    names = (HOSTILE, *(f"test/{i:03}.png" for i in range(1, 90)))
    return digits_evaluation(digits_detector, digits.test.load(digits_detector.spec), names)


@pytest.fixture(scope="module")
def path(digits_detector: Detector, evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = tmp_path_factory.mktemp("report") / "report.html"
    return write_evaluation_report(
        report, HOSTILE, digits_detector, evaluation, "oddlens eval", "my part.safetensors", HISTORY
    )


@pytest.fixture
def page(browser: Any, path: Path) -> Iterator[Any]:
    with open_page(browser, path, reduced_motion="reduce") as opened:
        yield opened


def live(page: Any, name: str) -> str:
    text: str = page.locator(f'[data-live="{name}"]').first.inner_text()
    return text


def threshold_of(page: Any) -> float:
    return float(live(page, "threshold").replace("−", "-"))


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drag(page: Any, share: float) -> None:
    """Drag the line to a place of the axis, with the mouse, in steps."""
    box = page.locator("#histogram").bounding_box()
    thumb = float(page.locator("#threshold").input_value())
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + thumb * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], middle, steps=5)
    page.mouse.up()
    settle(page)


def assert_page_agrees(page: Any, evaluation: Evaluation, threshold: float) -> None:
    """Check every number that follows the threshold against Python's; the page rounds the threshold to 4 digits."""
    scores, labels = evaluation.scores, evaluation.labels
    assert not (np.abs(scores - threshold) < 1e-3 * abs(threshold)).any(), "no image is at the rounding of the page"
    flagged = scores > threshold
    for name, label in (("caught", 1), ("stopped", 0)):
        counted = (labels == label) & evaluation.rate_mask
        hits, n = int((flagged & counted).sum()), int(counted.sum())
        low, high = rate_interval(hits, n)
        assert live(page, f"{name}-detail") == f"{hits} of {n} · 95%: {low:.1%} to {high:.1%}"
        assert live(page, name) == f"{hits / n:.1%}"
    kinds = np.array(evaluation.images.kinds)
    bars = page.locator("[data-live-row] span").all_inner_texts()
    for kind, text in zip(("good", "bright_bar", "dark_bar"), bars, strict=True):
        counted = (kinds == kind) & evaluation.rate_mask
        hits, n = int((flagged & counted).sum()), int(counted.sum())
        low, high = rate_interval(hits, n)
        assert text == f"{hits / n:.1%} ({low:.1%} to {high:.1%})"
    wrong = {"missed": ~flagged & (labels == 1), "alarm": flagged & (labels == 0), "flagged": flagged}
    for name, rows in wrong.items():
        assert page.locator(f'[data-count="{name}"]').inner_text() == str(int(rows.sum()))
    page.locator("#filters label", has_text="Missed").click()
    shown = page.locator(".cards > li:not([hidden]) .name").all_text_contents()  # those out of sight have no inner text
    order = np.argsort(-scores, kind="stable")
    assert shown == [evaluation.images.names[i] for i in order if wrong["missed"][i]]
    assert set(page.locator(".cards > li:not([hidden]) .verdict").all_text_contents()) <= {"● normal ✗ missed"}
    page.locator("#filters label", has_text="All ").first.click()


def free_threshold(evaluation: Evaluation, page: Any, share: float) -> float:
    """Drag near a place where no score is within the rounding of the page."""
    for offset in np.arange(0, 0.1, 0.01):
        drag(page, share + offset)
        threshold = threshold_of(page)
        if not (np.abs(evaluation.scores - threshold) < 1e-3 * abs(threshold)).any():
            return threshold
    raise AssertionError("every place of the axis has a score")


def test_the_page_opens_at_the_detectors_threshold_with_nothing_moved(page: Any, evaluation: Evaluation) -> None:
    assert threshold_of(page) == pytest.approx(evaluation.metrics["threshold"], rel=1e-3)
    assert page.locator("h1").inner_text() == HOSTILE
    assert not page.locator("#moved").is_visible()
    assert page.locator("button.reset:visible").is_disabled()
    caught = evaluation.metrics["detection_rate"]
    assert live(page, "caught") == f"{caught:.1%}"
    assert live(page, "shift").startswith(f"about {10 * caught:.2g} of 10 defective parts caught")
    assert "guaranteed: " in live(page, "shift")
    page.get_by_label("parts in a shift").fill("5000")
    assert " of 50 defective parts caught" in live(page, "shift")
    page.get_by_label("parts in a shift").fill("")
    assert "0 of 0" in live(page, "shift"), "no number is no parts, and no NaN"


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_numbers_bars_and_gallery_follow_the_dragged_line(page: Any, evaluation: Evaluation, share: float) -> None:
    threshold = free_threshold(evaluation, page, share)
    assert threshold != pytest.approx(evaluation.metrics["threshold"], rel=1e-2)
    assert_page_agrees(page, evaluation, threshold)
    moved = page.locator("#moved")
    assert "guarantee belongs to the detector's threshold" in moved.inner_text()
    assert re.search(r"oddlens threshold 'my part.safetensors' --false-alarm-rate 0\.\d+", moved.inner_text())
    moved.get_by_role("button").click()
    settle(page)
    assert threshold_of(page) == pytest.approx(evaluation.metrics["threshold"], rel=1e-3)
    assert not moved.is_visible()


def test_the_printed_command_makes_the_decision_on_the_page(
    page: Any, evaluation: Evaluation, digits_detector: Detector
) -> None:
    slider = page.get_by_role("slider", name="threshold")
    slider.focus()
    for _ in range(60):
        slider.press("ArrowLeft")
        settle(page)
        if live(page, "command-note").startswith("This decision"):
            break
    rate = float(live(page, "command").split()[-1])
    made = digits_detector.decision_.calibration.threshold(rate, None)
    assert threshold_of(page) == pytest.approx(made, rel=1e-3)
    assert f"guarantee of {100 * rate:.3g}%" in live(page, "command-note")


def test_touch_moves_the_line(browser: Any, path: Path, evaluation: Evaluation) -> None:
    with open_page(browser, path, has_touch=True, viewport={"width": 400, "height": 800}) as page:
        page.locator("#histogram").scroll_into_view_if_needed()
        box = page.locator("#histogram").bounding_box()
        page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + 20)
        settle(page)
        assert page.locator("#moved").is_visible()
        assert threshold_of(page) > evaluation.metrics["threshold"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone"


def test_everything_can_be_done_with_the_keyboard_alone(page: Any, evaluation: Evaluation) -> None:
    """Tab from the top: theme, shift, threshold, filters, an image, its tools, and back."""
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        if reached[-1] == "threshold":
            break
    assert reached == ["theme", "parts", "defective", "threshold"]
    slider = page.locator("#threshold")
    before, text = threshold_of(page), slider.get_attribute("aria-valuetext")
    assert "the detector's threshold" in text
    page.keyboard.press("ArrowRight")
    settle(page)
    assert threshold_of(page) > before, "one press is a move"
    assert "of anomalies caught" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert threshold_of(page) == before
    page.keyboard.press("Home")
    settle(page)
    assert live(page, "caught") == "100.0%"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the button that goes back
    settle(page)
    assert threshold_of(page) == before
    page.locator('input[name="show"]:checked').focus()
    page.keyboard.press("ArrowRight")
    assert page.locator('input[name="show"]:checked').get_attribute("value") == "missed"
    page.keyboard.press("ArrowLeft")
    page.locator(".open:visible").first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    first = dialog.locator("h2").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator("h2").inner_text() != first
    page.locator("#opacity").focus()
    page.keyboard.press("Home")
    assert dialog.locator(".heatmap").evaluate("(layer) => layer.style.opacity") == "0"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


def test_an_enlarged_image_has_all_views_its_verdict_and_its_numbers(page: Any, evaluation: Evaluation) -> None:
    page.get_by_label("Class").select_option(label="dark bar")
    assert page.locator(".cards > li:visible").count() == 15
    page.locator(".open:visible").first.click()
    dialog = page.locator("dialog")
    assert dialog.locator("figcaption").all_inner_texts() == ["original", "reconstruction", "heatmap"]
    assert dialog.locator("img:visible").count() == 4
    page.get_by_label("marked defect").check()
    assert dialog.locator("img:visible").count() == 5
    row = evaluation.images.names.index(dialog.locator("h2").inner_text())
    facts = dialog.locator("dd").all_inner_texts()
    assert facts[0] == "dark bar"
    assert facts[2].startswith(f"{evaluation.scores[row]:#.4g} ")
    assert all(page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)"))


def test_filters_combine_and_say_how_many_there_are(page: Any, evaluation: Evaluation) -> None:
    page.locator("#filters label", has_text="● Normal").click()
    page.get_by_label("Class").select_option(label="bright bar")
    kinds = np.array(evaluation.images.kinds)
    expected = int(((kinds == "bright_bar") & (evaluation.scores <= evaluation.metrics["threshold"])).sum())
    assert page.locator(".cards > li:visible").count() == expected
    assert page.locator("#gallery-count").inner_text() == (
        f"{expected} of {expected} shown." if expected else "None match."
    )


def test_more_images_come_when_asked_for_and_the_focus_goes_to_them(page: Any) -> None:
    assert page.locator(".cards > li:visible").count() == 48
    page.get_by_role("button", name="Show more").click()
    assert page.locator(".cards > li:visible").count() == 90
    assert page.evaluate("[...document.querySelectorAll('.open')].indexOf(document.activeElement)") == 48
    assert not page.get_by_role("button", name="Show more").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Any, path: Path, scheme: str) -> None:
    """At least 4.5 to 1 against the page, for ink, muted text and the colours of verdicts."""
    with open_page(browser, path, color_scheme=scheme) as page:
        ratios = page.evaluate(
            """() => {
              const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
              const luminance = (color) => {
                context.fillStyle = color;
                context.fillRect(0, 0, 1, 1);
                const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
                  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
              };
              const paper = luminance(getComputedStyle(document.querySelector(".cards > li")).backgroundColor);
              return [".verdict b", ".cards p", "h1", ".tiles dt"].map((selector) => {
                const ink = luminance(getComputedStyle(document.querySelector(selector)).color);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
              });
            }"""
        )
    assert min(ratios) >= 4.5, ratios


def test_it_prints_to_pdf_with_charts_and_images_and_in_light_colours(browser: Any, path: Path, tmp_path: Path) -> None:
    with open_page(browser, path, color_scheme="dark") as page:
        content = page.pdf(path=tmp_path / "report.pdf", format="A4")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
        assert page.locator(".cards > li:visible").count() == 48
        assert not page.locator("#filters").is_visible()
        assert page.locator("#histogram svg").is_visible()
    assert content.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type /Page\b", content)) <= 8


def test_it_works_in_a_sandboxed_frame(browser: Any, path: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe sandbox="allow-scripts" src="{path.as_uri()}" width="1100" height="800"></iframe>')
    with open_page(browser, path) as page:
        page.goto(frame.as_uri())
        inside = page.frames[1]
        assert inside.locator(".cards > li:visible").count() == 48
        inside.locator(".open:visible").first.click()
        assert inside.locator("dialog").is_visible()
        inside.get_by_role("button", name="Close").click()
        assert not inside.locator("dialog").is_visible()
        page.goto(path.as_uri())


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 1.0), (1e-300, 0.0), (-1e6, 0.0), (1e-6, 1e9)])
def test_scores_of_any_size_have_a_page(
    browser: Any, digits_detector: Detector, evaluation: Evaluation, tmp_path: Path, scale: float, offset: float
) -> None:
    unusual = replace(evaluation, scores=offset + scale * evaluation.scores)
    path = write_evaluation_report(tmp_path / "r.html", "Scores", digits_detector, unusual, "", "d.safetensors")
    with open_page(browser, path) as page:
        assert live(page, "caught") == f"{unusual.metrics['detection_rate']:.1%}"
        page.locator("#threshold").focus()
        for key in ("Home", "End", "ArrowLeft"):
            page.keyboard.press(key)
            settle(page)
            assert "NaN" not in page.locator("body").inner_text()


def test_axe_has_nothing_serious_to_say(browser: Any, path: Path) -> None:
    """In light and dark, moved and enlarged."""
    source = axe_source()
    for scheme in ("light", "dark"):
        with open_page(browser, path, color_scheme=scheme) as page:
            page.evaluate(source)
            for step in (lambda: None, lambda: drag(page, 0.8), lambda: page.locator(".open:visible").first.click()):
                step()
                assert violations(page, n_passes=20) == []
