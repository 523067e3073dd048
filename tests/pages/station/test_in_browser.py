"""The operator's page in a real Chromium, with a real service: by mouse, by keyboard, and when things fail."""

from __future__ import annotations

import base64
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe import axe_source, violations
from report_pages import PATIENCE, chromium
from running_service import RunningService, noise, png, running
from stored_inspections import DETECTOR_FILE, inspection

from oddlens.data.open import open_dataset
from oddlens.store.inspection import Filters
from oddlens.store.open import open_store

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
HOSTILE = "<img src=x onerror=alert(1)>.png"
UNTIL_LOST = """new Promise((done) => {
    const look = () => document.getElementById("lost").hidden ? setTimeout(look, 10) : done(performance.now());
    look();
})"""
STEEL, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser with a camera, which shows a green clock."""
    with chromium(*CAMERA) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that all tests share; it ends cleanly although pages were open."""
    with running(DETECTOR_FILE, "--store", tmp_path_factory.mktemp("station") / "parts.db") as service:
        yield service
        assert service.stop() == (0, "")


@pytest.fixture(scope="module")
def good() -> bytes:
    """A tile without a defect."""
    test = open_dataset("tiles").test
    return png(test.image(int(np.flatnonzero(test.labels == 0)[0]))[..., 0])


@pytest.fixture(scope="module")
def parts(service: RunningService) -> None:
    """Twelve parts, which fill the strip."""
    for i in range(12):
        assert service.post(f"part-{i}.png", noise(i)).status_code == 200


@contextmanager
def opened(browser: Any, service: RunningService, path: str = "/", **options: Any) -> Iterator[Any]:
    """The page, once it is live; it must not complain, nor ask for anything outside."""
    complaints: list[str] = []
    context = browser.new_context(**{"viewport": STEEL, "locale": "en-GB", "permissions": ["camera"]} | options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: None if is_ours(request.url, service) else complaints.append(request.url))
    page.goto(service.url + path)
    page.wait_for_selector("#pulse[data-state=live], #pulse[data-state=opened]")
    yield page
    context.close()
    refused = re.compile(r"Failed to load resource: .* status of 4(15|22) .*")  # what a test has sent on purpose
    assert [text for text in complaints if not refused.fullmatch(text)] == []


def is_ours(url: str, service: RunningService) -> bool:
    return url.startswith((service.url, f"blob:{service.url}"))


def drop(page: Any, name: str, content: bytes) -> None:
    """Drop a file on the page."""
    page.evaluate(
        """([name, base64]) => {
            const files = new DataTransfer(), bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            files.items.add(new File([bytes], name, { type: "image/png" }));
            for (const kind of ["dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(content).decode()],
    )


def wait_text(page: Any, selector: str, text: str) -> None:
    page.wait_for_function("([s, t]) => document.querySelector(s).textContent.includes(t)", arg=[selector, text])


def lamp(page: Any) -> str:
    text: str = page.locator("#verdict-text").inner_text()
    return text


def newest(service: RunningService) -> dict[str, Any]:
    with open_store(service.store) as store:
        return store.inspections(limit=1)[0].as_json()


def test_an_image_is_dropped_judged_and_still_so_after_a_reload(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as page:
        drop(page, "dropped.png", noise(1))
        wait_text(page, "#part-name", "dropped.png")
        assert (lamp(page), page.locator("#verdict").get_attribute("class")) == ("NG", "lamp ng")
        assert page.locator("#verdict svg:visible").get_attribute("class") == "sign-ng"
        page.wait_for_selector("#map:not([hidden])")
        page.locator("#fade").fill("100")
        assert page.locator("#map").evaluate("image => [image.style.opacity, image.width > 0]") == ["1", True]
        page.locator("#fade").fill("0")
        assert page.locator("#map").evaluate("image => image.style.opacity") == "0"

        page.locator("#override").click()
        page.locator("#choices button", has_text="Dust or fibre").click()
        wait_text(page, "#judged", "Dust or fibre")
        assert lamp(page) == "OK"
        assert page.locator("#verdict-note").inner_text() == "The detector said NG"
        assert page.locator("#strip .tile").first.inner_text().startswith("OK")
        page.locator("#undo").click()
        page.wait_for_selector("#judged", state="hidden")
        assert lamp(page) == "NG"
        page.locator("#override").click()
        page.locator("#reason").fill("seen by hand")
        page.locator("#reason-send").click()
        wait_text(page, "#judged", "seen by hand")
        page.reload()
        wait_text(page, "#judged", "seen by hand")
        assert lamp(page) == "OK"
    stored = newest(service)
    assert (stored["name"], stored["verdict"], stored["judgement"]["verdict"]) == ("dropped.png", "anomaly", "normal")
    assert stored["map_sha256"]


def test_a_lost_connection_is_said_within_3_s_and_the_page_recovers_by_itself(
    browser: Any, good: bytes, tmp_path: Path
) -> None:
    files = DETECTOR_FILE, "--store", tmp_path / "parts.db"
    context = browser.new_context(viewport=STEEL)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    with running(*files) as service:
        service.post("before.png", good)
        page.goto(service.url)
        wait_text(page, "#part-name", "before.png")
        assert lamp(page) == "OK"
        killed = page.evaluate("performance.now()")
        service.process.send_signal(signal.SIGKILL)
        assert page.evaluate(UNTIL_LOST) - killed < 3000
        assert page.locator("#lost").inner_text().startswith("Connection lost")
        assert lamp(page) == "No connection"
        drop(page, "meanwhile.png", good)
    with running(*files, port=service.port) as service:
        page.wait_for_selector("#lost", state="hidden")
        wait_text(page, "#part-name", "meanwhile.png")
        assert lamp(page) == "OK"
        service.post("after.png", noise(2))
        wait_text(page, "#part-name", "after.png")
        assert (lamp(page), page.locator("#shift-n").inner_text()) == ("NG", "3")
        context.close()


def test_everything_can_be_done_by_keyboard_alone(browser: Any, service: RunningService, good: bytes) -> None:
    with opened(browser, service) as page:
        files = [{"name": f"key{i}.png", "mimeType": "image/png", "buffer": good} for i in range(3)]
        page.on("filechooser", lambda chooser: chooser.set_files(files))
        page.wait_for_timeout(200)  # until the browser passes the dialog on instead of opening it
        page.keyboard.press("f")
        wait_text(page, "#part-name", "key2.png")
        page.keyboard.press("o")
        page.keyboard.press("3")
        wait_text(page, "#judged", "Stain")
        page.keyboard.press("u")
        page.wait_for_selector("#judged", state="hidden")
        page.keyboard.press("ArrowRight")
        wait_text(page, "#part-name", "key1.png")
        page.keyboard.press("c")
        wait_text(page, "#judged", "OK, judged by")
        page.keyboard.press("ArrowLeft")
        wait_text(page, "#part-name", "key2.png")
        page.keyboard.press("Escape")
        assert page.locator("#away").is_hidden()
        page.wait_for_selector("#fade:enabled")
        page.keyboard.press("h")
        assert page.locator("#fade").input_value() == "0"
        page.keyboard.press("h")
        assert page.locator("#fade").input_value() == "60"
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("o")
        assert page.locator("#reasons").is_hidden(), "keys work for the dialog alone"
        page.keyboard.press("Escape")
        page.keyboard.press("n")
        page.wait_for_selector("#tab-anomalies[aria-selected=true]")
        page.keyboard.press("o")
        page.locator("#reason").focus()
        page.keyboard.type("?u o1")
        assert page.locator("#reason").input_value() == "?u o1", "letters are letters where one writes"
        page.keyboard.press("Enter")
        wait_text(page, "#judged", "?u o1")


@pytest.mark.parametrize("viewport", [STEEL, {"width": 1920, "height": 1080}, PHONE])
def test_all_of_a_large_photograph_is_seen(browser: Any, service: RunningService, viewport: dict[str, int]) -> None:
    with opened(browser, service, viewport=viewport) as page:
        drop(page, "large.png", png(np.random.default_rng(4).integers(0, 256, (1000, 900), np.uint8)))
        wait_text(page, "#part-name", "large.png")
        page.wait_for_function("() => document.getElementById('image').height === 1000")
        frame, image = (page.locator(selector).bounding_box() for selector in ("#view", "#image"))
        for side, length in (("x", "width"), ("y", "height")):
            assert image[side] >= frame[side]
            assert image[side] + image[length] <= frame[side] + frame[length]


def test_an_undo_waits_for_the_answer_to_the_judgement_and_is_not_lost(browser: Any, service: RunningService) -> None:
    asked: list[str] = []

    def answer_late(route: Any) -> None:  # the stream shows the judgement meanwhile
        response = route.fetch()
        wait_text(page, "#judged", "Dust or fibre")
        asked.append(route.request.url)
        for _ in range(2):
            page.keyboard.press("u")
        route.fulfill(response=response)

    with opened(browser, service) as page:
        page.on("request", lambda request: asked.append(request.url) if "/withdraw" in request.url else None)
        page.route("**/judge", answer_late)
        drop(page, "late.png", noise(3))
        wait_text(page, "#part-name", "late.png")
        page.locator("#override").click()
        with page.expect_response("**/withdraw"):  # the judgement may be undone before anyone could look at it
            page.locator("#choices button", has_text="Dust or fibre").click()
        page.wait_for_selector("#judged", state="hidden")
    assert [url.rpartition("/")[2] for url in asked] == ["judge", "withdraw"], "in order, and a key pressed twice once"


def test_the_tabulator_reaches_every_control_and_shows_where_it_is(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as page:
        page.wait_for_selector("#strip .tile")
        expected = page.evaluate(
            "[...document.querySelectorAll('a[href], button, select, summary, input:not([type=hidden])')]"
            ".filter((e) => e.checkVisibility() && !e.disabled && !e.closest('dialog')).length"
        )
        for _ in range(expected + 3):
            page.keyboard.press("Tab")
            assert page.evaluate(
                """(() => {
                    const now = document.activeElement;
                    (window.reached ??= new Set()).add(now);
                    return now === document.body || getComputedStyle(now).outlineStyle !== "none";
                })()"""
            )
        assert page.evaluate("window.reached.size") >= expected


def test_the_camera_takes_pictures_by_key_and_by_itself(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as page:
        before = int(page.locator("#shift-n").inner_text())
        page.keyboard.press("k")
        page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
        page.wait_for_function("() => document.activeElement.id === 'trigger'")
        page.keyboard.press("Space")
        wait_text(page, "#part-name", "camera-")
        page.wait_for_function("(n) => Number(document.getElementById('shift-n').textContent) > n", arg=before)
        page.locator("#every").select_option("1")
        page.wait_for_function("(n) => Number(document.getElementById('shift-n').textContent) > n", arg=before + 2)
        page.keyboard.press("Escape")
        page.locator("#camera").click()
        assert page.locator("#camera-view").is_hidden()
        assert page.evaluate("document.getElementById('video').srcObject") is None
    with open_store(service.store) as store:
        (item,) = store.inspections(limit=1)
        content = store.image(item)
        assert content is not None
        assert content.startswith(b"\x89PNG")


def test_without_a_camera_the_page_says_so(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as page:
        for error, words in (("NotAllowedError", "allow it"), ("NotFoundError", "There is no camera")):
            page.evaluate(
                "(name) => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }",
                error,
            )
            page.keyboard.press("k")
            wait_text(page, "#message", words)


def test_names_tags_and_reasons_are_text(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as page:
        service.post(HOSTILE, noise(3), part=HOSTILE, lot=HOSTILE)
        wait_text(page, "#part-name", HOSTILE)
        wait_text(page, "#part-tags", HOSTILE)
        page.keyboard.press("o")
        page.locator("#reason").fill(HOSTILE)
        page.keyboard.press("Enter")
        wait_text(page, "#judged", HOSTILE)
        wait_text(page, "#done", HOSTILE)
        drop(page, HOSTILE, b"no image")
        wait_text(page, "#refused", HOSTILE)
        assert page.locator("img[src=x]").count() == 0


def test_what_is_no_image_is_named_and_the_others_are_inspected(
    browser: Any, service: RunningService, good: bytes
) -> None:
    with opened(browser, service) as page:
        page.locator("#files").set_input_files(
            [
                {"name": name, "mimeType": "image/png", "buffer": content}
                for name, content in (("notes.png", b"text"), ("empty.png", b""), ("after-those.png", good))
            ]
        )
        wait_text(page, "#part-name", "after-those.png")
        wait_text(page, "#refused", "notes.png")
        assert page.locator("#refused li").count() == 2
        page.locator("#refused button").click()
        assert page.locator("#refused").is_hidden()


def add_to_store(service: RunningService, count: int, content: bytes, **changes: Any) -> None:
    """What another process records: 3 parts ten times a second."""
    with open_store(service.store) as store:
        for i in range(0, count, 3):
            names = [f"{changes.get('name', 'part')}{i + j}.png" for j in range(3)]
            store.add_batch([(inspection(**changes | {"name": name}), content, None) for name in names])
            time.sleep(0.1)


def test_30_parts_a_second_are_all_counted_and_the_page_stays_small(
    browser: Any, service: RunningService, good: bytes
) -> None:
    with opened(browser, service) as page:
        before = int(page.locator("#shift-n").inner_text())
        page.evaluate(
            """() => {
                const seen = window.seen = { tiles: 0, elements: 0, shown: 0 };
                new MutationObserver(() => {
                    seen.tiles = Math.max(seen.tiles, document.querySelectorAll("#strip .tile").length);
                    seen.elements = Math.max(seen.elements, document.querySelectorAll("*").length);
                }).observe(document.body, { childList: true, subtree: true });
                const name = document.getElementById("part-name");
                new MutationObserver(() => { seen.shown += 1; }).observe(name, { childList: true });
            }"""
        )
        feeding = threading.Thread(target=add_to_store, args=(service, 90, good), kwargs={"name": "fast"})
        started = time.monotonic()
        feeding.start()
        wait_text(page, "#shift-n", str(before + 90))
        wait_text(page, "#part-name", "fast89.png")
        seconds = time.monotonic() - started
        feeding.join()
        seen = page.evaluate("window.seen")
        assert seen["tiles"] == 24
        assert seen["elements"] < 700
        assert 1 <= seen["shown"] <= 4 * seconds + 2


def test_a_part_that_one_looks_at_stays_while_others_arrive(browser: Any, service: RunningService, good: bytes) -> None:
    with opened(browser, service) as page:
        service.post("looked-at.png", good)
        wait_text(page, "#part-name", "looked-at.png")
        page.locator("#strip .tile").first.click()
        service.post("meanwhile1.png", good)
        service.post("meanwhile2.png", noise(4))
        wait_text(page, "#away-text", "2 new, 1 NG")
        assert page.locator("#part-name").inner_text() == "looked-at.png"
        page.locator("#override").click()
        service.post("meanwhile3.png", good)
        wait_text(page, "#away-text", "3 new, 1 NG")
        assert page.locator("#reasons-part").inner_text() == "looked-at.png"
        page.keyboard.press("Escape")
        assert page.locator("#part-name").inner_text() == "looked-at.png", "Escape closed the dialog alone"
        page.keyboard.press("Escape")
        wait_text(page, "#part-name", "meanwhile3.png")
        service.post("meanwhile4.png", noise(5))
        wait_text(page, "#part-name", "meanwhile4.png")


def test_a_judgement_reaches_the_other_pages(browser: Any, service: RunningService) -> None:
    with opened(browser, service) as here, opened(browser, service) as there:
        service.post("shared.png", noise(6))
        for page in (here, there):
            wait_text(page, "#part-name", "shared.png")
        here.keyboard.press("o")
        here.keyboard.press("1")
        wait_text(there, "#judged", "Dust or fibre")
        assert lamp(there) == "OK"
        there.keyboard.press("u")
        here.wait_for_selector("#judged", state="hidden")


def test_the_queue_goes_from_part_to_part(browser: Any, service: RunningService, good: bytes) -> None:
    for seed in (11, 12):
        service.post(f"queue{seed}.png", noise(seed))
    with opened(browser, service, "/station/review") as page:
        page.wait_for_selector("#away:not([hidden])")
        first = page.locator("#part-name").inner_text()
        page.wait_for_function("() => document.querySelectorAll('#strip .tile').length >= 2")
        page.keyboard.press("c")
        page.keyboard.press("c")
        page.wait_for_function("(name) => document.getElementById('part-name').textContent !== name", arg=first)
        wait_text(page, "#done", f"Recorded: {first} is ")
        with open_store(service.store) as store:
            (item,) = store.inspections(Filters(name=first), limit=1)
            assert len(store.judgements(item.id)) == 1, "a key pressed twice judges once"
        page.locator("#strip .tile", has_text=first).wait_for(state="detached")


@pytest.mark.parametrize("viewport", [STEEL, PHONE], ids=["10 inches", "phone"])
def test_targets_are_for_gloves_and_nothing_sticks_out(
    browser: Any, service: RunningService, parts: None, viewport: dict[str, int]
) -> None:
    with opened(browser, service, viewport=viewport, locale="de-DE", color_scheme="dark") as page:
        page.wait_for_selector("#strip .tile")
        small = page.evaluate(
            """[...document.querySelectorAll("button, select, summary, nav a, input:not([type=hidden], [type=file])")]
                .filter((e) => e.checkVisibility()).map((e) => [e.id || e.textContent, e.getBoundingClientRect()])
                .filter(([, box]) => box.height < 47.9 || box.width < 47.9).map(([name]) => name)"""
        )
        assert small == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        lamp = page.locator("#verdict").bounding_box()
        text = page.locator("#verdict-text").bounding_box()
        assert text["height"] >= (100 if viewport == STEEL else 48), "legible from three metres"
        assert lamp["x"] < text["x"] < text["x"] + text["width"] < lamp["x"] + lamp["width"]
        assert lamp["y"] < text["y"] < text["y"] + text["height"] < lamp["y"] + lamp["height"] <= viewport["height"] / 2
        assert page.locator("#strip .tile").count() >= 12
        page.keyboard.press("?")
        for text in (page.locator("body").inner_text(), page.locator("#help").inner_text()):
            assert not re.search(r"\b(station|shift|drift|camera|sources|recent|pulse)\.[a-z_]+\b", text)
        assert "Nachprüfung" in page.locator("#tab-review").inner_text()


def test_a_terminal_shows_the_parts_of_its_station(browser: Any, service: RunningService) -> None:
    def send(*stations: str) -> None:
        for station in stations:
            service.post(f"of-{station}.png", noise(7), station=station)

    def names(page: Any) -> set[str]:
        return set(page.evaluate("[...document.querySelectorAll('#strip .tile')].map((tile) => tile.title)"))

    send("north", "south")
    with opened(browser, service) as page:
        page.locator("#filter-station").select_option("south")
        page.wait_for_function("() => document.querySelectorAll('#strip .tile').length === 1")
        assert names(page) == {"of-south.png"}
        assert "station=south" in page.url
        send("south", "north")
        page.wait_for_function("() => document.querySelectorAll('#strip .tile').length === 2")
        page.reload()
        page.wait_for_selector("#pulse[data-state=live]")
        page.wait_for_function("() => document.querySelectorAll('#strip .tile').length === 2")
        assert names(page) == {"of-south.png"}
        assert page.locator("#tag-station").input_value() == "south", "what is inspected here is of this station"
        assert page.get_by_text("of all stations").is_visible()
        page.locator("#filter-station").select_option("")
        page.wait_for_function("() => document.querySelectorAll('#strip .tile').length > 3")


def test_axe_has_nothing_serious_to_say(browser: Any, service: RunningService, parts: None) -> None:
    """In light and dark, and with each dialog."""
    source = axe_source()
    for scheme in ("light", "dark"):
        with opened(browser, service, color_scheme=scheme) as page:
            page.wait_for_selector("#strip .tile")
            page.evaluate(source)
            for key in ("", "?", "Escape", "o", "Escape", "k", "n"):
                if key:
                    page.keyboard.press(key)
                page.wait_for_timeout(300)
                assert violations(page, n_passes=15) == []
