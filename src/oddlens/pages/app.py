"""`Pages`: what the service's application has for people, besides its interface for programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from oddlens.pages.learning.engineering import Engineering
from oddlens.pages.learning.job_routes import job_routes
from oddlens.pages.learning.routes import folder_routes, project_routes
from oddlens.pages.learning.service_routes import service_routes
from oddlens.pages.login import login_routes
from oddlens.pages.rendering import page
from oddlens.pages.static_files import static_routes
from oddlens.pages.station.live import LiveStream
from oddlens.pages.station.routes import station_routes
from oddlens.service.service import Service


class Pages:
    """The pages of a service with a store; `run_server` attaches them."""

    def __init__(self) -> None:
        self.engineering: Engineering | None = None  # where the service was given a root

    def attach(self, app: FastAPI, service: Service) -> None:
        """Add the routes."""
        app.state.settings = service.settings  # which every page shows something of
        app.include_router(login_routes(service.settings))
        app.include_router(static_routes())
        app.include_router(component_routes())
        self.stream = LiveStream(service)
        app.include_router(station_routes(service, self.stream))
        if service.settings.root is not None:
            self.engineering = Engineering(service)
            for routes in (folder_routes, project_routes, job_routes, service_routes):
                app.include_router(routes(self.engineering))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """What runs beside the requests."""
        tasks = [asyncio.create_task(self.stream.run())]
        if self.engineering is not None:
            tasks.append(asyncio.create_task(self.engineering.start_jobs()))
            tasks.append(asyncio.create_task(self.engineering.prune_regularly()))
        yield
        for task in tasks:
            task.cancel()
        for ending in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ending, Exception):  # one that failed before; being cancelled is none
                raise ending


def component_routes() -> APIRouter:
    """The page that shows every component."""
    router = APIRouter(include_in_schema=False)

    @router.get("/components")
    async def components(request: Request) -> Response:
        return page(request, "components.html")

    return router
