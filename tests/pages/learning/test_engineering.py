from __future__ import annotations

from pathlib import Path

import pytest
from learning_client import Engineer
from page_client import page_client

from oddlens.errors import SettingsError
from oddlens.pages.learning.engineering import sentence, whole


def test_without_a_root_there_are_no_pages_for_engineers(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        for path in ("/learn", "/learn/service", "/learn/projects/0123456789abcdef"):
            assert client.get(path).status_code == 404
        assert not (tmp_path / "parts.db.learning").exists()
        assert "/learn" not in client.get("/components").text


def test_a_person_gets_an_error_as_a_page_and_a_script_as_json(engineer: Engineer) -> None:
    page = engineer.get("/learn/jobs/<b>x")
    assert page.status_code == 404
    assert "There is no job &#39;&lt;b&gt;x&#39;; choose one of the list." in page.text
    assert 'href="/learn"' in page.text
    for headers in ({}, {"Accept": "text/html", "HX-Request": "true"}):
        assert "there is no job" in engineer.get("/learn/jobs/x", headers=headers).json()["error"]


def test_what_is_no_form_is_refused(engineer: Engineer) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert engineer.client.post("/learn/projects", content=b"no form", headers=headers).status_code == 400


def test_the_workspace_lies_beside_the_store(engineer: Engineer, tmp_path: Path) -> None:
    engineer.page("/learn")
    assert engineer.work.jobs.workspace.folder == tmp_path / "parts.db.learning"
    assert engineer.work.jobs is engineer.work.jobs


def test_while_the_service_starts_pages_say_so(engineer: Engineer) -> None:
    engineer.client.service.state = "starting"
    assert engineer.get("/learn").status_code == 503


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "9" * 40, "٣"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="revision"):
        whole(text, "revision")


def test_messages_are_sentences() -> None:
    assert sentence("it is so") == sentence("it is so.") == "It is so."
