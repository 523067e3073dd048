"""`Pages`: what the service's application has for people, besides its interface for programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from oddlens.pages.login import login_routes
from oddlens.pages.rendering import page
from oddlens.pages.static_files import static_routes
from oddlens.pages.station.live import LiveStream
from oddlens.pages.station.routes import station_routes
from oddlens.service.service import Service


class Pages:
    """The pages of a service with a store; `run_server` attaches them."""

    def attach(self, app: FastAPI, service: Service) -> None:
        """Add the routes."""
        app.state.settings = service.settings  # which every page shows something of
        app.include_router(login_routes(service.settings))
        app.include_router(static_routes())
        app.include_router(component_routes())
        self.stream = LiveStream(service)
        app.include_router(station_routes(service, self.stream))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """What runs beside the requests."""
        streaming = asyncio.create_task(self.stream.run())
        yield
        streaming.cancel()
        with suppress(asyncio.CancelledError):
            await streaming


def component_routes() -> APIRouter:
    """The page that shows every component."""
    router = APIRouter(include_in_schema=False)

    @router.get("/components")
    async def components(request: Request) -> Response:
        return page(request, "components.html")

    return router
