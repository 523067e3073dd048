"""Routes: the progress of a job, and what a fit resulted in: its report, thresholds, and comparison with others."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from oddlens.conformal.lot import LEVEL, MIN_CHANCE
from oddlens.detector.detector import Detector
from oddlens.errors import StateError
from oddlens.pages.learning import results
from oddlens.pages.learning.engineering import Engineering, Form, page_router, see, text_of
from oddlens.pages.learning.job import FINDINGS_PAGE, LOG, Job
from oddlens.pages.learning.project_pages import OPEN, decimal, job_ahead, revision_of, shared_values
from oddlens.pages.learning.results import REPORT
from oddlens.pages.learning.thresholds import threshold_choices
from oddlens.pages.rendering import page

SANDBOX = "sandbox allow-scripts allow-downloads; frame-ancestors 'self'"  # beside the report's own policy
MAX_LOG = 4000  # characters of a log that are shown
MAX_NAME = 64  # characters of the name of a detector
MAX_STRIP = 24  # images of a kind on the page of a result


def job_routes(work: Engineering) -> APIRouter:
    """The routes of jobs."""
    router = page_router()

    @router.post("/learn/projects/{project}/check")
    def check(project: str, request: Request, form: Form) -> Response:
        present = work.projects.get(project)
        if revision_of(form) != present.revision:
            return see(f"/learn/projects/{project}/check?stale=1")
        job = work.jobs.add("check", present, request.state.user.name)
        work.record(request, "check", present.name, project=project, job=job.id)
        return see(f"/learn/projects/{project}/check")

    @router.get("/learn/jobs/{job}")
    def show(job: str, request: Request) -> Response:
        return show_job(work, request, work.jobs.get(job))

    @router.get("/learn/jobs/{job}/progress")
    def progress(job: str, request: Request) -> Response:
        values = progress_values(work, work.jobs.get(job))
        changed = values["job_status"].state != request.query_params.get("state")
        response = page(request, "learn/progress.html", **values)
        if changed:  # other buttons, or a result
            response.headers["HX-Refresh"] = "true"
        return response

    @router.post("/learn/jobs/{job}/{change}")
    def change(job: str, change: str, request: Request, form: Form) -> Response:
        return change_job(work, request, work.jobs.get(job), change, form)

    @router.get("/learn/jobs/{job}/report")
    def report(job: str) -> Response:
        return sandboxed(work.jobs.get(job), REPORT)

    @router.get("/learn/jobs/{job}/findings")
    def findings(job: str) -> Response:
        return sandboxed(work.jobs.get(job), FINDINGS_PAGE)

    @router.get("/learn/jobs/{job}/threshold")
    def thresholds(job: str, request: Request) -> Response:
        return threshold_page(work, request, work.jobs.get(job))

    @router.get("/learn/jobs/{job}/deploy")
    def deploy(job: str, request: Request) -> Response:
        values = result_values(work, request, work.jobs.get(job), "deploy")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", values["project"].name).strip("-._")[:MAX_NAME] or "part"
        return page(request, "learn/deploy.html", **values, names=work.service.detectors.names, suggestion=name)

    @router.get("/learn/jobs/{job}/compare")
    def compare(job: str, request: Request) -> Response:
        return compare_page(work, request, work.jobs.get(job))

    return router


def sandboxed(job: Job, name: str) -> Response:
    """A page that a job wrote, which can do nothing to the others."""
    content = job.own(name).read_text(encoding="utf-8")
    return HTMLResponse(content, headers={"Content-Security-Policy": SANDBOX})


def change_job(work: Engineering, request: Request, job: Job, change: str, form: Form) -> Response:
    """Pause, continue or stop a job, or move the threshold of its detector."""
    name = job.request.project_name
    if change == "threshold":
        rate = results.retune(job, decimal(text_of(form, "rate"), "rate"))
        work.record(request, "threshold", name, project=job.request.project, job=job.id, rate=rate)
        return see(f"/learn/jobs/{job.id}?rate={rate}")
    changes = {"pause": work.jobs.pause, "continue": work.jobs.continue_, "stop": work.jobs.stop}
    if change not in changes:
        raise StateError(f"a job cannot be changed by {change[:20]!r}; load the page again")
    is_skipped = change == "stop" and job.request.kind == "check" and bool(text_of(form, "skip"))
    if not is_skipped or job.status.state in OPEN:  # a check may have ended while somebody decided to skip it
        changes[change](job.id)
        work.record(request, change, name, project=job.request.project, job=job.id)
    if job.request.kind == "check":
        return see(f"/learn/projects/{job.request.project}/{'fit' if is_skipped else 'check'}")
    return see(f"/learn/jobs/{job.id}")


def progress_values(work: Engineering, job: Job) -> dict[str, Any]:
    """What is shown of a job that has not ended."""
    return {"job": job, "job_status": job.status, "log": log_of(job), "ahead": job_ahead(work)}


def log_of(job: Job) -> str:
    """The end of the log of a job."""
    try:
        return (job.folder / LOG).read_text(encoding="utf-8", errors="backslashreplace")[-MAX_LOG:]
    except OSError:
        return ""


def show_job(work: Engineering, request: Request, job: Job) -> Response:
    """The page of a job: its progress, or what it resulted in."""
    if job.request.kind == "check":
        return see(f"/learn/projects/{job.request.project}/check")
    if job.status.state == "done":
        values = result_values(work, request, job, "judge")
        return page(request, "learn/result.html", **values, others=others(work, job))
    project = work.projects.get(job.request.project)
    values = shared_values(work, request, project, "fit") | progress_values(work, job)
    return page(request, "learn/job.html", **values)


def others(work: Engineering, job: Job) -> list[tuple[str, str, Any]]:
    """Detectors to compare with: job, rate and request of all fits to the same photographs that are done."""
    return [
        (other.id, rate, other.request)
        for other in work.jobs.all()
        if other.request and other.request.kind == "fit" and other.status.state == "done"
        if other.request.folder == job.request.folder
        for rate in ["", *results.rates(work.jobs.get(other.id))]
    ]


def result_values(work: Engineering, request: Request, job: Job, step: str) -> dict[str, Any]:
    """What the pages of a result show; the address may name the rate of another threshold."""
    rate = request.query_params.get("rate", "")
    result = results.result_of(job, rate)
    images, project = result["images"], work.projects.get(job.request.project)
    is_test, missed, stopped = result["test"] is not None, [], []
    for image in sorted(images, key=lambda image: image["score"]):
        if image["counts"] or not is_test:
            is_flagged = image["verdict"] == "anomaly"
            if image["label"] == 1 and not is_flagged:
                missed.append(image)
            if image["label"] == 0 and is_flagged:
                stopped.append(image)
    return shared_values(work, request, project, step) | {
        "job": job,
        "rate": rate,
        "rates": results.rates(job),
        "result": result,
        "made": job.request,
        "fit_done": job,
        "query": f"?rate={rate}" if rate else "",
        "missed": missed,
        "stopped": stopped[::-1],
        "max_strip": MAX_STRIP,
        "n_defects": sum(image["label"] == 1 and image["counts"] for image in images),
        "n_good": sum(image["label"] == 0 and (image["counts"] or not is_test) for image in images),
        "is_infinite": result["threshold"] is None,
        "chance": chance_of_alarms(result["test"]),
    }


def chance_of_alarms(test: dict[str, Any] | None) -> float | None:
    """The probability of so many false alarms where the guarantee holds, at most; None unless it is too small."""
    p_value = None if test is None else test.get("alarms_p_value")  # results of earlier versions lack it
    return max(p_value, MIN_CHANCE) if p_value is not None and p_value <= LEVEL else None


def threshold_page(work: Engineering, request: Request, job: Job) -> Response:
    """The scores of all images, and a slider for the share of good parts that may be stopped."""
    values = result_values(work, request, job, "judge")
    result = values["result"]
    detector = Detector.load(results.for_deployment(job, values["rate"]), device="cpu", threads=1)
    choices = threshold_choices(detector, result["images"])
    names = ("id", "name", "kind", "label", "score", "counts")
    data = {
        "choices": choices,
        "present": result["false_alarm_rate"],
        "calibration": result["calibration_scores"],
        "images": [{name: image[name] for name in names} for image in result["images"]],
        "is_test": result["test"] is not None,
        "folder": result["folder"],
    }
    return page(request, "learn/threshold.html", **values, data=data, choices=choices)


def compare_page(work: Engineering, request: Request, job: Job) -> Response:
    """A detector beside another one: figures, and the images that they judge differently first."""
    values = result_values(work, request, job, "judge")
    other_id, _, other_rate = request.query_params.get("other", "").partition(":")
    second = results.result_of(work.jobs.get(other_id), other_rate)
    comparison = results.compare(values["result"], second)
    differ = frozenset(comparison["differ"])
    images = sorted(comparison["images"], key=lambda image: image["id"] not in differ)
    values |= {"second": second, "second_job": work.jobs.get(other_id), "second_rate": other_rate}
    return page(
        request, "learn/compare.html", **values, comparison=comparison, images=images[:MAX_STRIP], differ=differ
    )
