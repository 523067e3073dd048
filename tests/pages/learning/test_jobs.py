"""Jobs as processes: one at a time, paused, killed, continued and stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from photo_folders import LONG, Desk, has_checkpoint, state_of

from oddlens.config.base import TrainingSettings
from oddlens.detector.detector import Detector
from oddlens.errors import DataNotFoundError, StateError
from oddlens.pages.learning import jobs
from oddlens.pages.learning.folders import open_photographs
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.results import result_of
from oddlens.pages.learning.workspace import read_json, write_json


def pid_of(job: Job) -> int:
    pid: int = read_json(job.folder / "worker.json")["pid"]  # None until the process is there
    return pid


def test_a_fit_that_was_paused_and_then_killed_gives_the_scores_of_an_undisturbed_one(desk: Desk) -> None:
    job, second = (desk.jobs.add("fit", desk.project(LONG), "Ada") for _ in range(2))
    desk.wait(job, "running", until=lambda: isinstance(pid_of(job), int), hurried=False)
    assert state_of(second) == "waiting"
    assert os.getpgid(pid_of(job)) != os.getpgid(0)
    assert os.getpriority(os.PRIO_PROCESS, pid_of(job)) >= 10
    desk.wait(job, "running", until=lambda: has_checkpoint(job))
    desk.jobs.pause(second.id)  # so that it does not begin below
    desk.jobs.pause(job.id)
    desk.wait(job, "paused")
    assert state_of(second) == "paused"
    assert has_checkpoint(job)
    assert not (job.folder / "detector.safetensors").exists(), "there was nothing to pause"
    desk.jobs.tick()
    assert state_of(job) == "paused"

    desk.jobs.continue_(job.id)
    assert state_of(job) == "waiting"
    desk.wait(job, "running", until=lambda: isinstance(read_json(job.folder / "worker.json")["pid"], int))
    os.kill(pid_of(job), signal.SIGKILL)
    desk.jobs._processes[0].wait()
    assert state_of(job) == "interrupted"
    restarted = jobs.Jobs(desk.workspace, desk.photographs)  # of a server that was killed, too
    restarted.tick()
    desk.jobs._processes += restarted._processes
    desk.wait(job, "done")

    training = TrainingSettings(epochs=LONG.epochs or 1)
    undisturbed = Detector("autoencoder", training=training).fit(
        open_photographs(desk.photographs.root / "parts").train
    )
    expected = undisturbed.decision_.calibration_scores
    np.testing.assert_array_equal(result_of(job)["calibration_scores"], expected)
    progress = read_json(job.folder / "progress.json")
    assert progress["share"] == pytest.approx(1, abs=0.051)
    assert not has_checkpoint(job)


def test_stopping_leaves_no_process_and_no_unfinished_file(desk: Desk) -> None:
    job = desk.jobs.add("fit", desk.project(LONG), "Ada")
    desk.wait(job, "running", until=lambda: has_checkpoint(job))
    pid = pid_of(job)
    desk.jobs.stop(job.id)
    desk.wait(job, "stopped")
    for process in desk.jobs._processes:
        process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    left = {path.name for path in job.folder.iterdir()}
    assert left == {"job.json", "wish.json", "log.txt", "outcome.json"}
    for change in (desk.jobs.continue_, desk.jobs.pause, desk.jobs.stop):
        with pytest.raises(StateError, match="it is stopped"):
            change(job.id)


def test_a_waiting_job_is_paused_continued_and_stopped_without_a_process(desk: Desk) -> None:
    job = desk.jobs.add("fit", desk.project(), "Ada")
    desk.jobs.pause(job.id)
    desk.jobs.tick()
    assert state_of(job) == "paused"
    desk.jobs.continue_(job.id)
    assert state_of(job) == "waiting"
    desk.jobs.stop(job.id)
    assert state_of(job) == "stopped"
    desk.jobs.tick()
    assert desk.jobs._processes == []


def test_a_worker_that_dies_twice_has_failed_and_can_be_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.jobs.add("fit", desk.project(), "Ada")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for state in ("interrupted", "failed"):
        desk.jobs.tick()
        desk.jobs._processes[-1].wait()
        assert state_of(job) == state
    desk.jobs.tick()
    assert desk.jobs._processes == []
    assert job.status.error.startswith("the work ended twice without a result")
    desk.jobs.continue_(job.id)
    assert state_of(job) == "waiting"


def test_a_number_of_a_process_that_is_not_ours_is_never_signalled(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in the file may be that of another process by now: without the lock, nothing is sent."""
    job = desk.jobs.add("fit", desk.project(), "Ada")
    write_json(job.folder / "worker.json", {"pid": os.getpid(), "starts": 1})
    sent = list[object]()
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *arguments: sent.append(arguments))
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    assert not jobs.send(job, signal.SIGTERM)
    with jobs.locked(job):
        assert jobs.send(job, signal.SIGTERM)
    assert len(sent) == 1


def test_a_job_is_as_its_project_was_when_it_was_added(desk: Desk) -> None:
    project = desk.project(excluded=["a" * 16], region=[[[0, 0], [1, 0], [1, 1]]])
    job = desk.jobs.add("fit", project, "Ada <b>")
    desk.projects.change(project.id, project.revision, excluded=[], name="Lids")
    request = job.request
    assert (request.project, request.project_name, request.revision) == (project.id, "Caps", 2)
    assert (request.excluded, request.person, request.folder_name) == (("a" * 16,), "Ada <b>", "parts")
    assert (job.folder / "region.png").exists()


def test_jobs_are_listed_newest_first_and_by_project(desk: Desk) -> None:
    projects = [desk.project(), desk.project()]
    added = [desk.jobs.add("check", project, "Ada").id for project in (*projects, projects[0])]
    assert [row.id for row in desk.jobs.all()] == added[::-1]
    assert [row.id for row in desk.jobs.all(projects[0].id)] == [added[2], added[0]]
    assert desk.jobs.get(added[1]).id == added[1]
    with pytest.raises(DataNotFoundError, match="no job"):
        desk.jobs.get("..")


def test_a_project_whose_folder_is_gone_gets_no_job(desk: Desk) -> None:
    project = desk.project()
    (desk.root / "parts").rename(desk.root / "moved")
    with pytest.raises(DataNotFoundError):
        desk.jobs.add("fit", project, "Ada")
    assert desk.jobs.all() == []


def test_a_job_that_is_half_made_is_not_started(desk: Desk) -> None:
    (desk.workspace.jobs / ("0" * 16)).mkdir()
    desk.jobs.tick()
    assert desk.jobs._processes == []


def test_a_stop_that_nobody_obeys_ends_by_killing(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = tmp_path / "deaf"
    deaf.write_text("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    job = desk.jobs.add("fit", desk.project(), "Ada")
    desk.wait(job, "running", until=lambda: (job.folder / "log.txt").read_text() == "ready\n")
    write_json(job.folder / "worker.json", {"pid": desk.jobs._processes[0].pid, "starts": 1})
    desk.jobs.stop(job.id)
    assert state_of(job) == "stopping"
    monkeypatch.setattr(jobs, "STOP_SECONDS", 0.0)
    desk.wait(job, "stopped", until=lambda: (job.folder / "outcome.json").exists())
    assert json.loads((job.folder / "outcome.json").read_text())["state"] == "stopped"
