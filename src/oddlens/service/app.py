"""The application: routes, errors as answers, metrics and the page of the documentation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from importlib.resources import files
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from oddlens import __version__
from oddlens.errors import OddlensError
from oddlens.service.inspections import inspection_routes
from oddlens.service.protocol import protocol_routes
from oddlens.service.refusals import RefusalError, as_refusal
from oddlens.service.security import Guard
from oddlens.service.service import Service

STATIC = files("oddlens.service") / "static"
PAGE_FILES = {  # name in the address -> file and type; no address becomes a path
    "swagger-ui.css": ("swagger-ui.css.gz", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", "text/javascript"),
    "start.js": ("start.js", "text/javascript"),
}
EVENT_STREAM = "text/event-stream"
STATUSES = {
    400: "The request is malformed, or its Host name is not served.",
    401: "The token is missing or wrong.",
    403: "A page of another site made this request.",
    404: "There is no such detector or inspection.",
    408: "The body did not arrive in time.",
    409: "The detector was not replaced.",
    413: "The body, or the number of images, is too large.",
    415: "Not an image, or a body of another type.",
    422: "An image or a field cannot be used.",
    429: "The queue is full; see Retry-After.",
    503: "Starting or draining; see Retry-After.",
    504: "No answer within the deadline.",
    507: "The disk of the store is full; nothing was recorded.",
}


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str


class Extension(Protocol):
    """What adds routes to the application, and may run beside the service."""

    def attach(self, app: FastAPI, service: Service) -> None:
        """Add routes, before the service is open; they are behind the guard as all others are."""
        ...

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Entered once the service is loaded, before it takes requests, and left before it is closed."""
        ...


def create_app(
    service: Service, lifespan: Lifespan[FastAPI] | None = None, extensions: Sequence[Extension] = ()
) -> FastAPI:
    """The application of a service, which `lifespan` opens and closes, together with the lifespans of `extensions`."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text} for status, text in STATUSES.items()
    }
    app = FastAPI(
        title="oddlens",
        version=__version__,
        summary="Detects anomalous images.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=responses,
    )
    app.include_router(inspection_routes(service))
    app.include_router(protocol_routes(service))
    add_pages(app, service)
    for extension in extensions:
        extension.attach(app, service)
    add_error_answers(app)
    app.add_middleware(Guard, settings=service.settings)
    app.add_middleware(Measured, service=service)  # around the guard: what it refuses counts too
    return app


def add_pages(app: FastAPI, service: Service) -> None:
    """Metrics, and the page of the documentation with its files."""

    @app.get("/metrics", response_class=Response, tags=["service"])
    async def metrics() -> Response:
        """Metrics, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response((STATIC / "docs.html").read_bytes(), media_type="text/html")

    @app.get("/docs/{name}", include_in_schema=False)
    async def docs_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise RefusalError(404, "there is no such file")
        file, media_type = PAGE_FILES[name]
        headers = {"Content-Encoding": "gzip"} if file.endswith(".gz") else {}
        return Response((STATIC / file).read_bytes(), media_type=media_type, headers=headers)


def add_error_answers(app: FastAPI) -> None:
    """Answer every error as JSON with its reason."""

    @app.exception_handler(RefusalError)
    async def refused(request: Request, error: RefusalError) -> Response:
        return error.response()

    @app.exception_handler(OddlensError)
    async def failed(request: Request, error: OddlensError) -> Response:
        return as_refusal(error).response()

    @app.exception_handler(HTTPException)
    async def wrong(request: Request, error: HTTPException) -> Response:
        return RefusalError(error.status_code, str(error.detail)).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return RefusalError(422, f"{first['loc'][-1]}: {first['msg']}").response()


class Measured:
    """ASGI middleware that counts requests and their seconds, by route and status.

    A stream of events counts until it begins: it takes no place of the queue, and draining does not wait for it.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        def count() -> None:
            self.service.requests -= 1
            route = getattr(scope.get("route"), "path", "none")
            self.service.metrics.requests.labels(route, status).inc()
            self.service.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if Headers(raw=message["headers"]).get("content-type", "").startswith(EVENT_STREAM):
                    answered.close()
            await send(message)

        self.service.requests += 1
        with ExitStack() as answered:
            answered.callback(count)
            await self.app(scope, receive, send_counted)
