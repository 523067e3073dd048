"""Routes: what serves under which name, since when and by whom; put a detector into service, and roll back."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from oddlens.detector.detector import Detector
from oddlens.pages.learning import results
from oddlens.pages.learning.engineering import Engineering, Form, page_router, see, text_of
from oddlens.pages.learning.job import Job
from oddlens.pages.rendering import page

MAX_ROWS = 100  # of the histories
PER_PAGE = 50  # actions


def service_routes(work: Engineering) -> APIRouter:
    """The routes of what serves."""
    router = page_router()

    @router.get("/learn/service")
    def service(request: Request) -> Response:
        return page(request, "learn/service.html", **service_values(work, request))

    @router.post("/learn/service")
    async def deploy(request: Request, form: Form) -> Response:
        name, person = text_of(form, "name"), request.state.user.name
        if job_id := text_of(form, "job"):
            job, rate = work.jobs.get(job_id), text_of(form, "rate")
            digest = await asyncio.to_thread(add_to_store, work, job, rate)
        else:
            digest = text_of(form, "digest")
        await work.service.deploy(name, digest, person=person, reason=text_of(form, "reason"))
        return see(f"/learn/service?name={name}")

    @router.post("/learn/service/out")
    async def take_out(request: Request, form: Form) -> Response:
        reason = text_of(form, "reason")
        await work.service.take_out(text_of(form, "name"), person=request.state.user.name, reason=reason)
        return see("/learn/service")

    return router


def add_to_store(work: Engineering, job: Job, rate: str) -> str:
    """Put the detector of a fit into the store. Returns its digest."""
    path = results.for_deployment(job, rate)
    detector = Detector.load(path, device="cpu", threads=1)
    work.store.add_detector(detector, path)
    return detector.manifest.digest


def service_values(work: Engineering, request: Request) -> dict[str, Any]:
    """What serves, what served before, and what people did."""
    store, detectors = work.store, dict(work.service.detectors.items())
    before = request.query_params.get("before", "")
    actions = store.actions(PER_PAGE, int(before) if before.isdecimal() and len(before) < 18 else None)
    deployed = store.deployed()
    served = [(name, detector, deployed.get(name)) for name, detector in detectors.items()]
    origins = dict[str, tuple[str, str]]()
    for listed in work.jobs.all():
        if listed.request and listed.request.kind == "fit" and listed.status.state == "done":
            job = work.jobs.get(listed.id)
            for rate in ["", *results.rates(job)]:
                digest = results.result_of(job, rate)["digest"]
                origins[digest] = (
                    f"/learn/jobs/{job.id}" + (f"?rate={rate}" if rate else ""),
                    listed.request.project_name,
                )
    return {
        "served": served,
        "deployments": store.deployments(limit=MAX_ROWS),
        "present_ids": {deployment.id for deployment in deployed.values()},
        "serving": {name: detector.manifest.digest for name, detector in detectors.items()},
        "origins": origins,
        "actions": actions,
        "more": actions[-1].id if len(actions) == PER_PAGE else None,
        "renewed": request.query_params.get("name", ""),
    }
