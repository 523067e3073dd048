"""The engineer's pages in a real Chromium, with a real service in a process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe import axe_source, violations
from learning_client import engineer_client
from page_client import ENGINEER, OPERATOR
from photo_folders import SECONDS, hurried, write_parts
from PIL import Image
from report_pages import chromium
from running_service import RunningService, png, running
from stored_inspections import DETECTOR_FILE

from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.pages.learning.folders import Photographs
from oddlens.pages.learning.jobs import Jobs
from oddlens.pages.learning.workspace import Workspace

QUICK_METHOD = "patchcore"
LONG_EPOCHS = "150"  # of a fit that is interrupted on its way


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@contextmanager
def page_of(browser: Any, service: RunningService) -> Iterator[Any]:
    """A window at the first page; its scripts must not complain."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
    context.set_default_timeout(1000 * SECONDS)
    page, complaints = context.new_page(), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{service.url}/learn")
    yield page
    context.close()
    assert complaints == []


@contextmanager
def jobs_stopped(folder: Path) -> Iterator[None]:
    """Where a test fails, the jobs of its service end, too."""
    try:
        yield
    except BaseException:
        workspace = Workspace.open(folder / "parts.db.learning", folder / "photos")
        jobs = Jobs(workspace, Photographs(folder / "photos", workspace))
        for row in jobs.all():
            if row.status.state not in ("done", "failed", "stopped"):
                jobs.stop(row.id)
        raise


def write_tiles(folder: Path, n_train: int = 50, n_test: int = 5) -> None:
    """Write some of the built-in tiles as people have them."""
    data = open_dataset("tiles")
    parts = [
        ("train/good", data.train, 0, n_train),
        ("test/good", data.test, 0, n_test),
        ("test/bad", data.test, -n_test, None),
    ]
    for name, images, begin, end in parts:
        (folder / name).mkdir(parents=True)
        for row in range(len(images))[begin:end]:
            Image.fromarray(images.image(row)[..., 0]).save(folder / name / f"{row:03}.png")


def drag(page: Any, selector: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over an element; places are shares of its width and height."""
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    for i, (x, y) in enumerate((begin, end)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def test_from_a_folder_to_a_served_detector_with_the_mouse_alone(tmp_path: Path, browser: Any) -> None:
    write_tiles(tmp_path / "photos" / "tiles")
    with (
        running("--root", tmp_path / "photos", "--store", tmp_path / "parts.db") as service,
        hurried(service.process.pid),
        page_of(browser, service) as page,
    ):
        page.locator(".folder", has_text="tiles").get_by_role("button", name="Use these photographs").click()
        page.locator(".photo").nth(2).get_by_role("button", name="Enlarge").click()
        page.locator("#viewer").get_by_role("button", name="Next").click()
        page.locator("#viewer").get_by_role("button", name="Exclude").click()
        page.get_by_text("003.png is excluded.").wait_for(state="attached")
        page.locator("#viewer").get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Undo").click()
        page.get_by_text("003.png is included again.").wait_for()
        page.locator(".photo").nth(1).locator(".exclude").click()
        page.get_by_text("001.png is excluded.").wait_for()

        page.get_by_role("link", name="Draw the area").click()
        drag(page, "#shapes", (0.05, 0.05), (0.95, 0.95))
        page.get_by_text("Area 1", exact=True).wait_for()
        page.get_by_role("button", name="Save", exact=True).last.click()
        page.get_by_text("1 area", exact=True).wait_for()

        page.get_by_role("button", name="Continue: check the photographs").first.click()
        page.get_by_role("link", name="Continue: learn").click()
        page.get_by_text("More settings").click()
        page.get_by_label("Method").select_option(QUICK_METHOD)
        page.get_by_role("button", name="Start learning").click()
        page.get_by_role("heading", name="How good is it?").wait_for()
        page.locator("iframe").scroll_into_view_if_needed()  # it is loaded when somebody comes to it
        report = page.frame_locator("iframe")
        report.get_by_role("heading", name="Scores and threshold").wait_for()

        page.get_by_role("link", name="Make it stricter or milder").click()
        page.locator("#chart canvas").wait_for()
        slider = page.locator("#slider").bounding_box()
        page.mouse.click(slider["x"] + slider["width"] * 0.97, slider["y"] + slider["height"] / 2)
        page.locator("#guarantee", has_text="50%").wait_for()
        page.get_by_role("button", name="Use this strictness").click()
        page.get_by_text("it stops at most 50% on average").wait_for()
        page.get_by_role("link", name="Put it into service").click()
        page.get_by_role("button", name="Put into service").click()
        page.get_by_text("tiles is in service now.").wait_for()

        part = (tmp_path / "photos/tiles/test/bad").glob("*.png")
        answer = service.post("part.png", next(part).read_bytes()).json()["inspections"][0]
        served = service.client.get("/v1/detectors").json()
        assert (answer["detector"], answer["verdict"]) == ("tiles", "anomaly")
        assert [(answer["detector"], answer["detector_digest"])] == [(row["name"], row["digest"]) for row in served]
        page.get_by_role("heading", name="What people did").wait_for()
        assert page.get_by_text("changed the strictness").count() == 1


def test_a_fit_is_there_again_after_the_browser_and_the_server_were_ended(tmp_path: Path, browser: Any) -> None:
    write_parts(tmp_path / "photos" / "parts")
    arguments = ("--root", tmp_path / "photos", "--store", tmp_path / "parts.db")
    with jobs_stopped(tmp_path), running(*arguments) as service, hurried(service.process.pid):
        with page_of(browser, service) as page:
            page.locator(".folder", has_text="parts").get_by_role("button", name="Use these photographs").click()
            page.locator(".steps").get_by_role("link", name="Learn").click()
            page.get_by_text("More settings").click()
            page.get_by_label("Method").select_option("autoencoder")
            page.get_by_label("Passes over the photographs").fill(LONG_EPOCHS)
            page.get_by_role("button", name="Start learning").click()
            page.locator("#progress", has_text="Learning").wait_for()
            page.get_by_role("button", name="Pause").click()
            page.get_by_role("heading", name="Learning is paused").wait_for()
        with page_of(browser, service) as page:
            page.locator(".folder", has_text="Learning").get_by_role("link", name="Open").click()
            page.get_by_role("button", name="Continue").click()
            page.locator("#progress", has_text="Learning").wait_for()
        service.stop(signal.SIGKILL)
    with (
        jobs_stopped(tmp_path),
        running(*arguments) as service,
        hurried(service.process.pid),
        page_of(browser, service) as page,
    ):
        page.locator(".folder", has_text="Learning").get_by_role("link", name="Open").click()
        page.get_by_role("heading", name="How good is it?").wait_for()


def test_while_a_detector_is_brought_back_every_image_is_answered_by_one_of_the_two(
    tmp_path: Path, browser: Any
) -> None:
    file = tmp_path / "part.onnx"
    (tmp_path / "photos").mkdir()
    first, second = Detector.load(DETECTOR_FILE), Detector.load(DETECTOR_FILE)
    second.set_decision(second.manifest.decision.model_copy(update={"method": "conformal", "false_alarm_rate": 0.2}))
    first.save(file)
    answers, is_over = list[dict[str, Any]](), threading.Event()
    with running(file, "--root", tmp_path / "photos") as service, page_of(browser, service) as page:
        before = service.client.get("/v1/detectors").json()[0]["digest"]
        second.save(file)
        present = service.client.post("/v1/detectors/part/reload").json()["digest"]
        thresholds = {before: first.decision_.threshold, present: second.decision_.threshold}

        def post() -> None:
            image = png(np.random.default_rng(0).integers(0, 255, (96, 96), dtype=np.uint8))
            while not is_over.is_set():
                response = service.post("a.png", image)
                assert response.status_code == 200, response.text
                answers.extend(response.json()["inspections"])

        thread = threading.Thread(target=post)
        thread.start()
        page.goto(f"{service.url}/learn/service")
        page.get_by_role("button", name="Bring back").first.click()
        page.get_by_role("textbox", name="Why").fill("too strict")
        page.get_by_role("button", name="Bring it back").click()
        page.get_by_text("part is in service now.").wait_for()
        count = len(answers)
        while len(answers) < count + 3:
            is_over.wait(0.01)
        is_over.set()
        thread.join()
        digests = [answer["detector_digest"] for answer in answers]
        assert (digests[0], digests[-1]) == (present, before)
        assert digests == sorted(digests, key=digests.index), "each began once"
        for answer in answers:
            assert answer["threshold"] == pytest.approx(thresholds[answer["detector_digest"]])
        ids = [answer["id"] for answer in answers]
        assert len(set(ids)) == len(ids)


def pages_in_all_states(folder: Path) -> dict[str, str]:
    """Projects and jobs in all states but "running", in a workspace. Returns the addresses of their pages."""
    with engineer_client(folder, detectors={"part": DETECTOR_FILE}) as engineer:
        good = engineer.root / "parts/train/good"
        (good / "copy.png").write_bytes((good / "001.png").read_bytes())
        jobs, projects = engineer.work.jobs, [engineer.project() for _ in range(3)]
        (good / "000.png").write_bytes(b"no image")
        engineer.done(projects[0], "check")
        (good / "000.png").unlink()
        result = engineer.done(projects[0])
        rate = engineer.post(f"/learn/jobs/{result.id}/threshold", rate="0.4").headers["location"].partition("=")[2]
        engineer.post("/learn/service", name="caps", job=result.id, rate=rate, reason="a new lamp")
        others = {state: jobs.add("fit", projects[1], "ann") for state in ("paused", "failed", "stopped")}
        jobs.pause(others["paused"].id)
        others["failed"].end("failed", "the photographs cannot be read; look at them")
        jobs.stop(others["stopped"].id)
        check = jobs.add("check", projects[2], "ann")
        jobs.pause(check.id)
        project, job = f"/learn/projects/{projects[0].id}", f"/learn/jobs/{result.id}"
    return {
        "start": "/learn", "photographs": project, "excluded": f"{project}?view=excluded",
        "region": f"{project}/region",
        "findings": f"{project}/check", "stale": f"{project}/check?stale=1", "fit": f"{project}/fit",
        "open fit": f"/learn/projects/{projects[1].id}/fit", "paused check": f"/learn/projects/{projects[2].id}/check",
        **{state: f"/learn/jobs/{other.id}" for state, other in others.items()},
        "result": job, "result at a rate": f"{job}?rate={rate}", "threshold": f"{job}/threshold",
        "compare": f"{job}/compare?other={result.id}:{rate}", "deploy": f"{job}/deploy",
        "service": "/learn/service?name=caps", "error": "/learn/jobs/0000000000000000", "components": "/components",
        "no part yet": "/", "no review": "/station/review",
    }  # fmt: skip


def test_axe_has_nothing_serious_to_say_about_any_page(tmp_path: Path, browser: Any) -> None:
    """In light and dark, on a tablet and a phone; the report in its frame has a test of its own."""
    source = axe_source()
    with ThreadPoolExecutor(1) as beside:  # the browser has the event loop of this thread
        addresses = beside.submit(pages_in_all_states, tmp_path).result()
    complaints = dict[str, object]()
    root, tokens = tmp_path / "photos", tmp_path / "people"
    tokens.write_text("\n".join(f"{user.name} {user.role} {user.token}" for user in (ENGINEER, OPERATOR)))
    tokens.chmod(0o600)

    def look(page: Any, name: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(200)  # colours fade
            if rules := violations(page, n_passes=5):
                complaints[f"{name}, {scheme}"] = rules

    for width, height in ((1280, 800), (390, 844)):
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en", bypass_csp=True)
        page = context.new_page()
        page.set_default_timeout(1000 * SECONDS)
        page.add_init_script(source)
        size = f"{width} pixels"
        with running("--root", root, "--store", tmp_path / "parts.db") as service:
            for name, address in addresses.items():
                page.goto(service.url + address, wait_until="networkidle" if address.startswith("/learn") else "load")
                look(page, f"{name}, {size}")
                for opener in page.locator("[data-opens]").all()[:1]:
                    opener.click()
                    look(page, f"a question of {name}, {size}")
            page.goto(f"{service.url}/learn")
            page.locator(".menu summary").click()
            look(page, f"menu, {size}")
        with running("--root", root, "--store", tmp_path / "parts.db", "--token-file", tokens) as service:
            page.goto(f"{service.url}/login")
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Log in").click()
            look(page, f"refused login, {size}")
        context.close()
    assert complaints == {}
