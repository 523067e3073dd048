"""Routes of the Open Inference Protocol, version 2: health, metadata and raw scores, without verdicts or records."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from oddlens import __version__
from oddlens.detector.detector import Detector
from oddlens.inference.backend import INPUT, Predictions
from oddlens.inference.scoring import batch_size, in_batches, score_batches
from oddlens.service.service import Service
from oddlens.service.tensors import DATATYPES, HEADER_LENGTH, output_metadata, parse_request, write_response
from oddlens.service.uploads import body_errors

INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object", "required": ["inputs"],
                    "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": {"type": "object"}},
                                   "outputs": {"type": "array", "items": {"type": "object"}}},
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}  # fmt: skip


def protocol_routes(service: Service) -> APIRouter:
    """The routes below /v2."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """Name and version of the server."""
        return {"name": "oddlens", "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether all detectors are loaded and requests are taken."""
        service.check_serving()
        return {"ready": True}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Input and outputs of a detector."""
        name, detector = service.detector(name)
        spec, has_map = detector.spec, detector.map_threshold is not None
        shape = [-1, spec.height, spec.width, spec.channels]
        return {
            "name": name,
            "versions": ["1"],
            "platform": detector.backend.name,
            "inputs": [{"name": INPUT, "datatype": DATATYPES[spec.dtype], "shape": shape}],
            "outputs": output_metadata(spec, has_map),
        }

    @router.get("/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        """Whether a detector takes requests."""
        service.check_serving()
        return {"name": service.detector(name)[0], "ready": True}

    @router.post("/models/{name}/infer", openapi_extra=INFER_BODY, response_class=Response)
    async def infer(name: str, request: Request) -> Response:
        """Scores and maps of pixels."""
        deadline = service.admit()
        name, detector = service.detector(name)
        with body_errors():
            async with asyncio.timeout_at(deadline):
                body = await request.body()

        def work() -> tuple[bytes, int | None]:
            infer_request = parse_request(body, request.headers.get(HEADER_LENGTH), detector.spec)
            return write_response(name, infer_request, score(detector, infer_request.pixels))

        content, length = await service.compute(work, deadline)
        headers = {} if length is None else {HEADER_LENGTH: str(length)}
        media_type = "application/json" if length is None else "application/octet-stream"
        return Response(content, media_type=media_type, headers=headers)

    return router


def score(detector: Detector, pixels: Any) -> Predictions:
    """Scores (N,) and maps (N, H, W) of pixels (N, H, W, C), which are already in the form of the detector."""
    batches = list(score_batches(detector.backend, in_batches(pixels, batch_size(detector.spec))))
    maps = [batch.anomaly_map for batch in batches if batch.anomaly_map is not None]
    scores = np.concatenate([batch.anomaly_score for batch in batches])
    return Predictions(scores, np.concatenate(maps) if maps else None, None)
