"""One job: its state is read from its folder alone."""

from __future__ import annotations

import json

import pytest
from photo_folders import Desk

from oddlens.errors import ArtifactError, SettingsError, StateError
from oddlens.io.own_folder import lock
from oddlens.pages.learning.job import Job, State, Wish
from oddlens.pages.learning.jobs import list_job
from oddlens.pages.learning.workspace import write_json


@pytest.fixture
def job(desk: Desk) -> Job:
    return desk.jobs.add("fit", desk.project(), "Ada")


@pytest.mark.parametrize(
    ("wish", "starts", "is_running", "state"),
    [
        ("run", None, False, "waiting"),
        ("run", 1, True, "running"),
        ("pause", 1, True, "pausing"),
        ("stop", 1, True, "stopping"),
        ("pause", 1, False, "paused"),
        ("pause", None, False, "paused"),
        ("stop", 1, False, "stopped"),
        ("run", 1, False, "interrupted"),
        ("run", 2, True, "running"),
        ("run", 2, False, "failed"),
    ],
)
def test_the_state_follows_from_wish_worker_and_lock(
    job: Job, wish: Wish, starts: int | None, is_running: bool, state: State
) -> None:
    job.wish = wish
    if starts is not None:
        write_json(job.folder / "worker.json", {"pid": None, "starts": starts})
    if is_running:
        with lock(job.folder):
            assert job.status.state == state
    else:
        assert job.status.state == state


def test_an_outcome_ends_a_job_with_its_sentence_and_time(job: Job) -> None:
    job.end("failed", "no <b>images</b>\nhere")
    assert (job.status.state, job.status.error) == ("failed", "no <b>images</b>\nhere")
    assert job.status.ended > job.request.created


def test_unfinished_files_of_a_killed_process_are_gone_at_the_end(job: Job) -> None:
    for name in (".oddlens-0123456789abcdef.partial", "detector.onnx"):
        (job.folder / name).touch()
    job.end("done")
    assert sorted(path.name for path in job.folder.iterdir()) == ["detector.onnx", "job.json", "outcome.json"]


def test_a_job_that_died_twice_says_the_end_of_its_log(job: Job) -> None:
    write_json(job.folder / "worker.json", {"pid": None, "starts": 2})
    assert job.status.error.endswith("the log is empty")
    (job.folder / "log.txt").write_bytes(b"x" * 5000 + b"\xffKilled\n")
    assert job.status.error.endswith(r"x\xffKilled")
    assert "too little memory or disk" in job.status.error
    assert len(job.status.error) < 2500


def test_a_stopped_job_has_its_request_and_log_left(job: Job) -> None:
    (job.folder / "detector.1234.training/checkpoints").mkdir(parents=True)
    (job.folder / "detector.safetensors").touch()
    (job.folder / "log.txt").touch()
    job.end("stopped")
    assert sorted(path.name for path in job.folder.iterdir()) == ["job.json", "log.txt", "outcome.json"]
    assert job.status.state == "stopped"


def test_a_job_of_an_unknown_version_is_refused_in_words_and_the_list_goes_on(desk: Desk, job: Job) -> None:
    other = desk.jobs.add("check", desk.project(), "Ada")
    path = job.folder / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(ArtifactError, match="another version of oddlens"):
        job.status  # noqa: B018
    listed = {row.id: row for row in desk.jobs.all()}
    assert listed[job.id].request is None
    assert listed[job.id].status.state == "failed"
    assert "update oddlens, or move it away" in listed[job.id].status.error
    assert listed[other.id].status.state == "waiting"


def test_a_job_with_unknown_fields_is_refused_in_words(job: Job) -> None:
    path = job.folder / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "format the disk"}))
    with pytest.raises(SettingsError, match=r"job\.json: 'kind'"):
        job.request  # noqa: B018
    assert list_job(job).status.state == "failed"


def test_files_are_of_jobs_that_are_done(job: Job) -> None:
    (job.folder / "detector.onnx").touch()
    with pytest.raises(StateError, match="it is waiting; choose a job that is done"):
        job.own("detector.onnx")
    job.end("done")
    assert job.own("detector.onnx").name == "detector.onnx"
    with pytest.raises(StateError, match=r"has no result\.json"):
        job.own("result.json")


def test_a_wish_is_one_of_three(job: Job) -> None:
    with pytest.raises(SettingsError, match="wish"):
        job.wish = "dance"  # type: ignore[assignment]
