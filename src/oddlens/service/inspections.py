"""Routes: inspect images, read what was inspected, replace a detector."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from oddlens.errors import DiskFullError, OddlensError
from oddlens.reporting.heatmaps import grey_levels
from oddlens.service.inspecting import Upload, as_png, decode_upload, inspect
from oddlens.service.refusals import RefusalError
from oddlens.service.service import Service
from oddlens.service.uploads import TAGS, read_request
from oddlens.store.inspection import StoredInspection
from oddlens.store.store import NewInspection, Store

BYTES = {"type": "string", "format": "binary"}
PNG = {"content": {"image/png": {"schema": BYTES}}}
QUERY = {name: {"type": "string"} for name in ("name", *TAGS, "detector")} | {"map": {"type": "boolean"}}
FORM_FIELDS = {name: schema | {"default": ""} for name, schema in QUERY.items() if name not in ("name", "map")} | {
    "map": {"type": "boolean", "default": False}
}  # without defaults, /docs fills fields in with "string"
FILES = {"type": "array", "minItems": 1, "items": BYTES}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object", "required": ["file"], "properties": {"file": FILES, **FORM_FIELDS},
                    "additionalProperties": False,
                }
            },
            "image/*": {"schema": BYTES},
        },
    },
    "parameters": [
        {"in": "query", "name": name, "required": False, "schema": schema,
         "description": "For an image as the body; a form has it as a field."}
        for name, schema in QUERY.items()
    ],
}  # fmt: skip


class InspectionAnswer(BaseModel):
    """An inspection; `id` is null without a store, `threshold` where it is infinite."""

    id: int | None
    name: str
    anomaly_score: float
    p_value: float | None
    threshold: float | None
    verdict: str
    detector: str
    detector_digest: str
    part: str | None
    lot: str | None
    station: str | None
    group: str | None
    time: str
    map_png: str | None = None
    map_url: str | None = None


class InspectAnswer(BaseModel):
    """The inspections of a request, in the order of its images."""

    inspections: list[InspectionAnswer]


class DetectorAnswer(BaseModel):
    """A detector that is served."""

    name: str
    digest: str


def inspection_routes(service: Service) -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1")

    @router.post("/inspect", openapi_extra=BODY, tags=["inspections"])
    async def inspect_images(request: Request) -> InspectAnswer:
        """Inspect images; all of a request, or none of them. What is answered is in the store."""
        deadline = service.admit()
        upload_request = await read_request(request, deadline)
        name, detector = service.detector(upload_request.detector)
        work = partial(inspect, name, detector, upload_request.uploads, upload_request.tags, upload_request.with_map)
        done = await service.inspect(work, len(upload_request.uploads), deadline)
        for _, (inspection, _, _) in done:
            service.metrics.images.labels(inspection.detector, inspection.verdict).inc()
        return InspectAnswer(inspections=[to_answer(number, inspected) for number, inspected in done])

    @router.get("/detectors", tags=["detectors"])
    async def detectors() -> list[DetectorAnswer]:
        """The detectors that are served."""
        served = service.detectors
        return [DetectorAnswer(name=name, digest=detector.manifest.digest) for name, detector in served.items()]

    @router.post("/detectors/{name}/reload", tags=["detectors"])
    async def reload(name: str, request: Request) -> DetectorAnswer:
        """Read the file of a detector again, and serve it from now on; where that fails, the present one goes on."""
        service.check_serving()
        if name not in service.detectors.paths:
            service.detector(name)  # refuses a name that nobody knows
        try:
            detector = await service.reload(name, person=request.state.user.name)
        except OddlensError as error:
            status = 507 if isinstance(error, DiskFullError) else 409
            raise RefusalError(status, f"not replaced: {error}") from error
        return DetectorAnswer(name=name, digest=detector.manifest.digest)

    @router.get("/inspections/{number}", tags=["inspections"])
    async def inspection(number: int) -> dict[str, Any]:
        """Everything that was recorded of an inspection, and the judgement that counts."""
        return (await asyncio.to_thread(opened(service).inspection, number)).as_json()

    @router.get("/inspections/{number}/map.png", response_class=Response, responses={200: PNG}, tags=["inspections"])
    async def map_png(number: int) -> Response:
        """The anomaly map over the image, where a request wanted it."""
        return await asyncio.to_thread(stored_map, opened(service), number)

    @router.get("/inspections/{number}/image.png", response_class=Response, responses={200: PNG}, tags=["inspections"])
    async def image_png(number: int) -> Response:
        """The image, encoded again for display."""
        return await asyncio.to_thread(stored_image, opened(service), number)

    return router


def to_answer(number: int | None, inspected: NewInspection) -> InspectionAnswer:
    """An inspection as it is answered."""
    inspection, _, map_png = inspected
    stored_map = number is not None and map_png is not None
    return InspectionAnswer(
        id=number,
        **{name: getattr(inspection, name) for name in InspectionAnswer.model_fields if hasattr(inspection, name)}
        | {"time": inspection.time.isoformat()},
        map_png=None if map_png is None else base64.b64encode(map_png).decode(),
        map_url=f"/v1/inspections/{number}/map.png" if stored_map else None,
    )


def opened(service: Service) -> Store:
    """The store of the service.

    Raises:
        RefusalError: there is none, or it is not open yet.
    """
    service.check_serving()
    if service.store is None:
        raise RefusalError(404, "this service runs with --no-store and records nothing")
    return service.store


def stored_map(store: Store, number: int) -> Response:
    """The map of an inspection.

    Raises:
        RefusalError: there is none, or it has expired.
    """
    content = store.map_png(store.inspection(number))
    if content is None:
        raise RefusalError(404, "this inspection has no map: none was requested, or it has expired")
    return Response(content, media_type="image/png")


def stored_image(store: Store, number: int) -> Response:
    """The image of an inspection as an 8-bit PNG: whatever else its file has in it is not passed on.

    Raises:
        RefusalError: it has expired.
    """
    return Response(as_png(stored_pixels(store, store.inspection(number))), media_type="image/png")


def stored_pixels(store: Store, inspection: StoredInspection) -> npt.NDArray[np.uint8]:
    """The pixels (H, W, C) of an inspection's image, with 8 bits.

    Raises:
        RefusalError: it has expired.
    """
    content = store.image(inspection)
    if content is None:
        raise RefusalError(404, "the image of this inspection has expired")
    pixels = decode_upload(Upload(inspection.name, content))
    levels = pixels if pixels.dtype == np.uint8 else grey_levels(pixels, max(int(pixels.max()), 1))
    return levels.astype(np.uint8, copy=False)
