"""The job that checks photographs: findings as data with the ids of images, and a page."""

from __future__ import annotations

import shutil

import pytest
from photo_folders import Desk, do_here

from oddlens.evaluation import contamination
from oddlens.pages.learning.checking import describe
from oddlens.pages.learning.folders import identity
from oddlens.pages.learning.workspace import read_json


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison of images by networks, which takes seconds and is tested elsewhere."""
    monkeypatch.setattr(contamination, "default_budget", lambda count: 0.0)


@pytest.mark.usefixtures("quick")
def test_findings_name_their_images_by_id_with_a_sentence_each(desk: Desk) -> None:
    train = desk.root / "parts/train/good"
    shutil.copy(train / "000.png", train / "<b>copy.png")
    (train / "torn.png").write_bytes((train / "001.png").read_bytes()[:100])
    (desk.root / "parts/notes.txt").write_text("none")
    job = do_here(desk.jobs.add("check", desk.project(), "Ada"))
    result = read_json(job.own("findings.json"))
    assert not result["ok"]
    assert result["facts"]["n_train"] == 62
    by_name = {finding["name"]: finding for finding in result["findings"]}
    (torn,) = by_name["unreadable"]["images"]
    assert (torn["id"], torn["name"]) == (identity("train/good/torn.png"), "train/good/torn.png")
    assert desk.photographs.image(desk.parts, torn["id"]) == train / "torn.png"
    (copy,) = by_name["duplicates"]["images"]
    names = {copy["name"], copy["similar"]["name"]}
    assert names == {"train/good/000.png", "train/good/<b>copy.png"}
    assert copy["similar"]["id"] == identity(copy["similar"]["name"])
    (left,) = by_name["left out"]["images"]
    assert left == {"id": None, "name": "notes.txt", "reason": "", "similar": None}
    for finding in result["findings"]:
        assert finding["level"] in ("error", "warning", "note")
        assert not finding["text"][0].islower()
        assert finding["text"].endswith(".")
        assert str(desk.root) not in finding["text"]
    page = job.own("findings.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;copy.png" in page
    assert "<b>copy.png" not in page
    assert str(desk.root) not in page


@pytest.mark.usefixtures("quick")
def test_excluded_images_are_not_checked(desk: Desk) -> None:
    torn = desk.root / "parts/train/good/torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n")
    project = desk.project(excluded=[identity("train/good/torn.png")])
    result = read_json(do_here(desk.jobs.add("check", project, "Ada")).own("findings.json"))
    assert result["ok"]
    assert result["facts"]["n_train"] == 60
    assert "unreadable" not in [finding["name"] for finding in result["findings"]]


def test_the_provenance_says_what_was_done(desk: Desk) -> None:
    project = desk.project(excluded=["a" * 16])
    request = desk.jobs.add("check", project, "Ada").request
    assert describe(request) == (
        "check of 'parts' in the project 'Caps' (revision 2): detector autoencoder, epochs 1; 1 image excluded"
    )
