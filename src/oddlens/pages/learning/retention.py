"""Retention of the files of checks and fits, by the rule of the store's: by age and size, and never what served."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from oddlens.errors import OddlensError
from oddlens.io.own_folder import is_locked, lock
from oddlens.pages.learning import results
from oddlens.pages.learning.job import Job, jobs_in
from oddlens.pages.learning.workspace import Workspace
from oddlens.store.retention import check_limits

HasServed = Callable[[str], bool]  # whether the detector of a digest was ever put into service


@dataclass(frozen=True)
class PrunedJobs:
    """What `prune_jobs` removed, or would remove: jobs, and bytes of their files."""

    dry_run: bool
    expired: int
    expired_bytes: int


def prune_jobs(
    workspace: Workspace,
    has_served: HasServed,
    keep_days: float | None = None,
    keep_gb: float | None = None,
    dry_run: bool = False,
) -> PrunedJobs:
    """Remove the files of jobs that ended before the last days, and of the oldest of those that take more than a size.

    What was requested stays, with its log. Jobs whose detector was put into service stay, and count first towards the
    size, as in the store; jobs that have not ended stay, too.

    Raises:
        SettingsError: a limit is negative or no number.
        OddlensError: a file cannot be removed.
    """
    check_limits(keep_days, keep_gb)
    ended = list(ended_jobs(workspace))
    served = {job.id for job, _ in ended if any(map(has_served, digests(job)))}
    since = None if keep_days is None else datetime.now(UTC) - timedelta(days=keep_days)
    order = sorted(ended, key=lambda row: (row[0].id in served, row[1]), reverse=True)
    total, expired, expired_bytes = 0, 0, 0
    for job, time in order:
        size = sum(path.stat().st_size for path in job.files())
        total += size
        is_old = since is not None and time < since
        is_beyond = keep_gb is not None and total > keep_gb * 1e9
        is_left = job.status.state == "expired"  # by a crash
        if size and job.id not in served and (is_old or is_beyond or is_left) and (dry_run or expire(job)):
            expired, expired_bytes = expired + 1, expired_bytes + size
    return PrunedJobs(dry_run, expired, expired_bytes)


def ended_jobs(workspace: Workspace) -> Iterator[tuple[Job, datetime]]:
    """The jobs that have ended, and when; those that cannot be read are left alone."""
    for job in jobs_in(workspace.jobs):
        with contextlib.suppress(OddlensError):
            status = job.status
            if status.ended:
                yield job, datetime.fromisoformat(status.ended)


def digests(job: Job) -> list[str]:
    """The digests of the detectors of a job, with those of other thresholds."""
    if job.request.kind != "fit" or job.status.state != "done":
        return []
    return [results.result_of(job, rate)["digest"] for rate in ["", *results.rates(job)]]


def expire(job: Job) -> bool:
    """Remove the files of a job; False while its worker still ends, or somebody continues it or moves its threshold."""
    retuned = job.folder / results.RETUNED
    with lock(job.folder) as is_free:
        if not is_free or not job.status_if(is_running=False).ended or (retuned.is_dir() and is_locked(retuned)):
            return False
        job.expire()
        return True
