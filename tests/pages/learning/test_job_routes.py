from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from learning_client import HTML, Engineer, engineer_client, texts

from oddlens.io.own_folder import lock
from oddlens.pages.learning import results
from oddlens.pages.learning.job import LOG, Job


def test_a_job_is_paused_continued_and_stopped(engineer: Engineer) -> None:
    project = engineer.project()
    job = engineer.work.jobs.add("fit", project, "ann")
    address = f"/learn/jobs/{job.id}"
    assert "The detector waits to learn" in engineer.page(address)
    for change, title in (("pause", "Learning is paused"), ("continue", "The detector waits"), ("stop", "was stopped")):
        assert engineer.post(f"{address}/{change}").headers["location"] == address
        assert title in engineer.page(address)
    assert [action for _, action in engineer.actions()] == ["pause", "continue", "stop"]
    assert engineer.post(f"{address}/pause").status_code == 422
    for change in ("delete", "..", "__class__"):
        assert engineer.post(f"{address}/{change}").status_code in (404, 422)


def test_who_goes_on_without_a_check_stops_it(engineer: Engineer) -> None:
    project = engineer.project()
    job = engineer.work.jobs.add("check", project, "ann")
    for _ in range(2):  # it may have ended meanwhile
        answer = engineer.post(f"/learn/jobs/{job.id}/stop", skip="1")
        assert answer.headers["location"] == f"/learn/projects/{project.id}/fit"
        assert job.status.state == "stopped"
    assert [action for _, action in engineer.actions()] == ["stop"]


def test_a_job_that_waits_says_for_which_one(engineer: Engineer) -> None:
    project = engineer.project()
    check, fit = (engineer.work.jobs.add(kind, project, "ann") for kind in ("check", "fit"))
    assert "It begins in a moment." in engineer.page(f"/learn/jobs/{fit.id}")
    with lock(check.folder):  # as while its worker runs
        page = engineer.page(f"/learn/jobs/{fit.id}/progress")
    assert f'<a href="/learn/jobs/{check.id}">The check of Caps comes first.</a>' in page


def test_progress_is_asked_for_again_until_the_state_changes(engineer: Engineer) -> None:
    job = engineer.work.jobs.add("fit", engineer.project(), "ann")
    same = engineer.get(f"/learn/jobs/{job.id}/progress?state=waiting")
    assert 'hx-trigger="every 1s"' in same.text
    assert "HX-Refresh" not in same.headers
    engineer.work.jobs.pause(job.id)
    paused = engineer.get(f"/learn/jobs/{job.id}/progress?state=waiting")
    assert paused.headers["HX-Refresh"] == "true"
    assert "hx-trigger" not in paused.text


def test_a_failure_is_said_in_words_with_the_log_below(engineer: Engineer) -> None:
    job = engineer.work.jobs.add("fit", engineer.project(), "ann")
    (job.folder / LOG).write_text("Traceback <script>alert(1)</script>\n")
    job.end("failed", "too few <b>photographs</b>")
    page = engineer.page(f"/learn/jobs/{job.id}")
    assert "Learning did not succeed" in page
    assert "too few &lt;b&gt;photographs" in page
    assert "Traceback &lt;script&gt;" in page
    assert "Try again" in page


def test_what_the_library_says_is_marked_as_english_on_german_pages(engineer: Engineer) -> None:
    job = engineer.work.jobs.add("fit", engineer.project(), "ann")
    job.end("failed", "too few photographs")
    german = {"headers": HTML | {"Accept-Language": "de"}}
    for address, text in ((f"/learn/jobs/{job.id}", "too few photographs"), ("/learn/jobs/0", "There is no job")):
        page = engineer.get(address, **german).text
        assert f'Meldung von oddlens (auf Englisch): <span lang="en">{text}' in page
        assert f'role="alert"><span lang="en">{text}' in engineer.get(address).text


def test_a_result_says_what_is_caught_what_is_stopped_and_what_is_guaranteed(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    page = texts(engineer.page(f"/learn/jobs/{job.id}"))
    assert re.search(r"Of good parts like those in your photographs, it stops at most [\d.]+% on average", page)
    assert re.search(r"Defects found [\d.]+% \d of 6 defective test photographs", page)
    assert re.search(r"Good parts stopped [\d.]+% \d of 6 photographs", page)


@pytest.mark.parametrize(("p_value", "chance"), [(0.00284, "0.28%"), (1e-9, "0.01%"), (0.02, None), (None, None)])
def test_a_result_says_where_the_guarantee_does_not_hold_for_the_test_photographs(
    judged: tuple[Engineer, Job], p_value: float | None, chance: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engineer, job = judged
    result = results.result_of(job)
    assert result["test"]["alarms_p_value"] > 0.01
    changed = result | {"test": result["test"] | {"alarms_p_value": p_value}}
    monkeypatch.setattr(results, "result_of", lambda job, rate: changed)
    page = texts(engineer.page(f"/learn/jobs/{job.id}"))
    assert ("This does not hold for the good parts that it was tested with" in page) == (chance is not None)
    assert chance is None or f"so many would be stopped in at most {chance} of cases" in page


def test_a_result_of_an_earlier_version_or_without_a_finite_threshold_is_shown(
    judged: tuple[Engineer, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    engineer, job = judged
    result = results.result_of(job)
    earlier = {name: value for name, value in result["test"].items() if name != "alarms_p_value"}
    monkeypatch.setattr(results, "result_of", lambda job, rate: result | {"test": earlier, "threshold": None})
    page = texts(engineer.page(f"/learn/jobs/{job.id}"))
    assert "It would never stop a part" in page
    assert "This does not hold" not in page


def test_the_report_can_do_nothing_to_the_other_pages(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    report = engineer.get(f"/learn/jobs/{job.id}/report")
    assert report.headers["content-security-policy"] == "sandbox allow-scripts allow-downloads; frame-ancestors 'self'"
    assert "allow-same-origin" not in engineer.page(f"/learn/jobs/{job.id}")
    assert str(engineer.root) not in report.text
    assert engineer.get(f"/learn/jobs/{job.id}/findings").status_code == 422, "it is a fit, and has none"


def data_of(page: str) -> dict[str, Any]:
    """The data of a page's script."""
    values: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    return values


def test_the_threshold_is_moved_to_what_the_page_said(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    data = data_of(engineer.page(f"/learn/jobs/{job.id}/threshold"))
    choice = data["choices"][-1]
    response = engineer.post(f"/learn/jobs/{job.id}/threshold", rate=choice["rate"])
    address = response.headers["location"]
    assert address == f"/learn/jobs/{job.id}?rate={choice['rate']:g}"
    page = texts(engineer.page(address))
    assert f"{choice['n_caught']} of {choice['n_defects']} defective" in page
    assert f"{choice['n_stopped']} of {choice['n_good']} photographs" in page
    again = data_of(engineer.page(f"/learn/jobs/{job.id}/threshold?rate={choice['rate']:g}"))
    assert again["present"] == choice["rate"]
    assert [row for row in again["choices"] if row in data["choices"]][-3:] == data["choices"][-3:]
    for rate in ("0", "2", "x", "0.000001", "nan"):
        assert engineer.post(f"/learn/jobs/{job.id}/threshold", rate=rate).status_code in (422, 500), rate
    assert engineer.get(f"/learn/jobs/{job.id}?rate=../..").status_code == 404


def test_two_detectors_are_compared_on_the_same_images(judged: tuple[Engineer, Job]) -> None:
    engineer, job = judged
    rate = engineer.post(f"/learn/jobs/{job.id}/threshold", rate="0.4").headers["location"].partition("=")[2]
    assert f'<option value="{job.id}:{rate}">' in engineer.page(f"/learn/jobs/{job.id}")
    page = engineer.page(f"/learn/jobs/{job.id}/compare?other={job.id}:{rate}")
    assert page.count('class="photo') >= 12
    assert "Put A into service" in page
    for other in ("", "x", f"{job.id}:0.123", "../..:1"):
        assert engineer.get(f"/learn/jobs/{job.id}/compare?other={other}").status_code == 404, other


def test_without_test_photographs_the_result_says_that_nobody_knows(tmp_path: Path) -> None:
    with engineer_client(tmp_path) as engineer:
        job = engineer.done(engineer.project(folder="parts/train"))
        page = texts(engineer.page(f"/learn/jobs/{job.id}"))
        assert "nobody knows yet how many it finds" in page
        assert "Own photographs stopped" in page
        assert str(engineer.root) not in engineer.page(f"/learn/jobs/{job.id}/report")
        data = data_of(engineer.page(f"/learn/jobs/{job.id}/threshold"))
        assert {row["n_good"] for row in data["choices"]} == {0}


def test_results_of_a_job_that_is_not_done_are_refused(engineer: Engineer) -> None:
    job = engineer.work.jobs.add("fit", engineer.project(), "ann")
    for page in ("report", "threshold", "deploy", f"compare?other={job.id}"):
        assert engineer.get(f"/learn/jobs/{job.id}/{page}").status_code == 422


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_page_is_there_in_each_language_without_inline_code(judged: tuple[Engineer, Job], language: str) -> None:
    engineer, job = judged
    project = f"/learn/projects/{job.request.project}"
    own = [f"/learn/jobs/{job.id}{rest}" for rest in ("", "/threshold", "/deploy", f"/compare?other={job.id}")]
    for address in ("/learn", "/learn/service", project, *(f"{project}/{p}" for p in ("region", "check", "fit")), *own):
        response = engineer.get(address, headers={"Accept": "text/html", "Accept-Language": language})
        assert response.status_code == 200
        assert f'<html lang="{language}">' in response.text
        assert "unsafe" not in response.headers["content-security-policy"]
        for inline in (" style=", "<style", " onclick", "<script>", "javascript:", "hx-on", "hx-vals='js"):
            assert inline not in response.text, (address, inline)
