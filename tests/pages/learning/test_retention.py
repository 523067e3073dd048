from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import run_json
from learning_client import Engineer, engineer_client
from photo_folders import Desk

from oddlens.errors import SettingsError
from oddlens.io.own_folder import lock
from oddlens.pages.learning.job import LOG, OUTCOME, Job
from oddlens.pages.learning.results import EXPORTED, RESULT
from oddlens.pages.learning.retention import prune_jobs


def ended(desk: Desk, days: float, digest: str = "0", size: int = 1000) -> Job:
    """A fit that ended so many days ago, with a detector of so many bytes."""
    job = desk.jobs.add("fit", desk.project(), "ann")
    (job.folder / EXPORTED).write_bytes(b"x" * size)
    (job.folder / RESULT).write_text(json.dumps({"version": 1, "digest": digest}))
    (job.folder / LOG).write_text("what was said")
    job.end("done")
    date(job, days)
    return job


def date(job: Job, days: float) -> None:
    """Let a job have ended so many days ago."""
    values = json.loads((job.folder / OUTCOME).read_text())
    time = datetime.now(UTC) - timedelta(days=days)
    (job.folder / OUTCOME).write_text(json.dumps(values | {"time": time.isoformat()}))


def nothing_served(digest: str) -> bool:
    return False


def test_files_of_old_jobs_are_removed_and_what_was_requested_stays(desk: Desk) -> None:
    old, new = ended(desk, 30), ended(desk, 1)
    paused = desk.jobs.add("fit", desk.project(), "ann")
    desk.jobs.pause(paused.id)
    planned = prune_jobs(desk.workspace, nothing_served, keep_days=7, dry_run=True)
    assert (planned.expired, old.status.state) == (1, "done")
    pruned = prune_jobs(desk.workspace, nothing_served, keep_days=7)
    assert (pruned.expired, pruned.expired_bytes) == (1, planned.expired_bytes)
    assert pruned.expired_bytes >= 1000
    assert [job.status.state for job in (old, new, paused)] == ["expired", "done", "paused"]
    assert sorted(path.name for path in old.folder.iterdir()) == ["job.json", LOG, OUTCOME]
    assert old.request.person == "ann"
    assert prune_jobs(desk.workspace, nothing_served, keep_days=7).expired == 0


def test_the_oldest_beyond_a_size_are_removed_and_what_served_counts_first(desk: Desk) -> None:
    served, *others = (ended(desk, days, str(days), size=1_000_000) for days in (9, 3, 2, 1))
    prune_jobs(desk.workspace, "9".__eq__, keep_gb=0.0031)
    assert [job.status.state for job in (served, *others)] == ["done", "expired", "done", "done"]
    prune_jobs(desk.workspace, "9".__eq__, keep_gb=0, keep_days=0)
    assert [job.status.state for job in (served, *others)] == ["done", *["expired"] * 3]
    assert prune_jobs(desk.workspace, nothing_served).expired == 0, "without a limit"


def test_what_a_crash_left_of_an_expired_job_is_removed_later(desk: Desk) -> None:
    job = ended(desk, 1)
    values = json.loads((job.folder / OUTCOME).read_text())
    (job.folder / OUTCOME).write_text(json.dumps(values | {"state": "expired"}))
    assert prune_jobs(desk.workspace, nothing_served, keep_days=7).expired == 1
    assert not (job.folder / EXPORTED).exists()


def test_a_job_whose_worker_still_ends_or_that_cannot_be_read_is_left_alone(desk: Desk) -> None:
    ending, damaged = ended(desk, 9), ended(desk, 9)
    (damaged.folder / OUTCOME).write_text("{")
    with lock(ending.folder):
        assert prune_jobs(desk.workspace, nothing_served, keep_days=7).expired == 0
    assert (ending.folder / EXPORTED).exists()
    assert (damaged.folder / EXPORTED).exists()


@pytest.mark.parametrize(("keep_days", "keep_gb"), [(-1, None), (None, -1), (float("nan"), None), (None, float("inf"))])
def test_limits_that_cannot_be_are_refused(desk: Desk, keep_days: float | None, keep_gb: float | None) -> None:
    with pytest.raises(SettingsError, match="cannot be kept"):
        prune_jobs(desk.workspace, nothing_served, keep_days, keep_gb)


def test_pages_say_that_files_have_expired_and_how_to_have_them_back(engineer: Engineer) -> None:
    project = engineer.project()
    for kind in ("fit", "check"):
        job = engineer.work.jobs.add(kind, project, "ann")
        job.end("done")
        job.expire()
    pages = [engineer.page(f"/learn/jobs/{engineer.work.jobs.all()[-1].id}"), engineer.page("/learn")]
    assert "The files of this detector have expired" in pages[0]
    assert "Begin again" in pages[0]
    assert "expired" in pages[1]
    check = f"/learn/projects/{project.id}/check"
    assert f'action="{check}"' in engineer.page(check)
    assert engineer.get(f"/learn/jobs/{engineer.work.jobs.all()[-1].id}/deploy").status_code == 422


def test_the_command_and_the_service_remove_them_by_the_limits_of_the_store(tmp_path: Path) -> None:
    with engineer_client(tmp_path, keep_days=7) as engineer:
        jobs = [engineer.work.jobs.add("check", engineer.project(), "ann") for _ in range(2)]
        for job, days in zip(jobs, (9, 3), strict=True):
            (job.folder / "findings.html").write_text("x" * 1000)
            job.end("done")
            date(job, days)
        engineer.work.prune()
        assert [job.status.state for job in jobs] == ["expired", "done"]
    result = run_json("store", "prune", "--store", tmp_path / "parts.db", "--keep-days", 2)
    assert (result["expired_jobs"], result["expired_job_bytes"]) == (1, 1000)
    assert [job.status.state for job in jobs] == ["expired", "expired"]
