"""Routes of the operator's page."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from oddlens.pages.rendering import page
from oddlens.pages.station.live import HEADERS, SHOWN, LiveStream, to_part
from oddlens.pages.station.review import ReviewQueue
from oddlens.pages.station.thumbnails import Thumbnails
from oddlens.service.inspections import opened
from oddlens.service.service import Service
from oddlens.store.inspection import Filters, Verdict, as_json

MAX_REASON = 500  # characters
QUEUED = 12  # parts of the review queue that are shown

Json = dict[str, Any]


class JudgeRequest(BaseModel):
    """What a person judges."""

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict
    reason: str = Field("", max_length=MAX_REASON)


class WithdrawRequest(BaseModel):
    """Why a person takes a judgement back."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=MAX_REASON)


def station_routes(service: Service, stream: LiveStream) -> APIRouter:
    """The page at / and what it asks for below /station, which are no part of the described interface."""
    router = APIRouter(include_in_schema=False)
    review, reviewing, thumbnails = ReviewQueue(), asyncio.Lock(), Thumbnails()

    def part_now(number: int) -> Json:
        """A part with all that people judged about it."""
        store = opened(service)
        judgements = [as_json(judgement) for judgement in store.judgements(number)]
        return to_part(store.inspection(number)) | {"judgements": judgements}

    @router.get("/")
    async def station(request: Request) -> Response:
        return page(request, "station/index.html", tab="last")

    @router.get("/station/review")
    async def review_page(request: Request) -> Response:
        return page(request, "station/index.html", tab="review")

    @router.get("/station/live")
    async def live(request: Request, after: str | None = None) -> StreamingResponse:
        events = stream.open(request.headers.get("last-event-id", after))
        return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)

    @router.get("/station/parts/{number}")
    async def part(number: int) -> Json:
        return await asyncio.to_thread(part_now, number)

    @router.get("/station/parts/{number}/thumbnail.png", response_class=Response)
    async def thumbnail(number: int) -> Response:
        content = await asyncio.to_thread(thumbnails.png, opened(service), number)
        return Response(content, media_type="image/png")

    @router.post("/station/parts/{number}/judge")
    async def judge(number: int, body: JudgeRequest, request: Request) -> Json:
        person = request.state.user.name
        await asyncio.to_thread(opened(service).judge, number, body.verdict, person=person, reason=body.reason.strip())
        stream.wake()
        return await asyncio.to_thread(part_now, number)

    @router.post("/station/judgements/{number}/withdraw")
    async def withdraw(number: int, body: WithdrawRequest, request: Request) -> Json:
        person = request.state.user.name
        undo = await asyncio.to_thread(opened(service).withdraw, number, person=person, reason=body.reason.strip())
        stream.wake()
        return await asyncio.to_thread(part_now, undo.inspection_id)

    @router.get("/station/newest")
    async def newest(station: str | None = None) -> Json:
        store = opened(service)
        kinds = {"parts": Filters(station=station), "anomalies": Filters(station=station, verdict="anomaly")}
        rows = {
            kind: await asyncio.to_thread(store.inspections, filters, limit=SHOWN) for kind, filters in kinds.items()
        }
        return {kind: [to_part(inspection) for inspection in inspections] for kind, inspections in rows.items()}

    @router.get("/station/queue")
    async def queue(station: str | None = None) -> Json:
        store, detectors = opened(service), dict(service.detectors.items())
        async with reviewing:
            next_ones = await asyncio.to_thread(review.find, store, detectors, QUEUED, station)
        return {"parts": [to_part(inspection) for inspection in next_ones]}

    @router.post("/station/shift")
    async def begin_shift(request: Request) -> Json:
        opened(service)
        await asyncio.to_thread(stream.begin_shift, request.state.user.name)
        return {}

    return router
