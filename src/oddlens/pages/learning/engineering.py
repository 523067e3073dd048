"""What the engineer's pages work on, and what all their routes share: forms, errors in words, records of actions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from oddlens.errors import OddlensError, SettingsError
from oddlens.pages.learning.folders import Photographs
from oddlens.pages.learning.jobs import Jobs
from oddlens.pages.learning.projects import Projects
from oddlens.pages.learning.retention import prune_jobs
from oddlens.pages.learning.workspace import Workspace, workspace_folder
from oddlens.pages.rendering import page
from oddlens.service.refusals import RefusalError, as_refusal
from oddlens.service.service import PRUNE_SECONDS, Service
from oddlens.store.store import Store

TICK_SECONDS = 0.5
MAX_FORM_FILES, MAX_FORM_FIELDS = 1000, 2000


class Engineering:
    """Photographs, projects and jobs beside the store of a service that was given a root."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._opening = threading.Lock()

    @property
    def store(self) -> Store:
        """The store.

        Raises:
            RefusalError: 503 while the service starts.
        """
        self.service.check_serving()
        return cast(Store, self.service.store)

    @property
    def photographs(self) -> Photographs:
        """The folders of photographs."""
        return self.jobs.photographs

    @property
    def projects(self) -> Projects:
        """The projects."""
        return self._work[0]

    @property
    def jobs(self) -> Jobs:
        """The jobs."""
        return self._work[1]

    @property
    def _work(self) -> tuple[Projects, Jobs]:
        with self._opening:
            return self._opened

    @cached_property
    def _opened(self) -> tuple[Projects, Jobs]:
        root = cast(Path, self.service.settings.root)
        workspace = Workspace.open(workspace_folder(self.store.files.folder), root)
        return Projects(workspace), Jobs(workspace, Photographs(root, workspace))

    async def start_jobs(self) -> None:
        """Start and continue jobs, one at a time, as long as the service serves."""
        while True:
            if self.service.state == "serving":
                with contextlib.suppress(OddlensError):  # a full disk: the next second tries again, pages say why
                    await asyncio.to_thread(self.tick)
            await asyncio.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Start or continue a job, if none runs.

        Raises:
            OddlensError: something cannot be written.
        """
        self.jobs.tick()

    async def prune_regularly(self) -> None:
        """Apply the retention of the service to the files of jobs, now and each hour."""
        keep_days, keep_gb = self.service.settings.keep_days, self.service.settings.keep_gb
        while keep_days is not None or keep_gb is not None:
            is_serving = self.service.state == "serving"
            if is_serving:
                with contextlib.suppress(OddlensError):  # the next hour tries again
                    await asyncio.to_thread(self.prune)
            await asyncio.sleep(PRUNE_SECONDS if is_serving else TICK_SECONDS)

    def prune(self) -> None:
        """Remove the files of jobs that are too old, or too many.

        Raises:
            OddlensError: a file cannot be removed.
        """
        keep_days, keep_gb = self.service.settings.keep_days, self.service.settings.keep_gb
        prune_jobs(self.jobs.workspace, self.store.has_served, keep_days, keep_gb)

    def record(self, request: Request, action: str, subject: str, **details: Any) -> None:
        """Record what the person who makes a request did."""
        self.store.record_action(action, subject, person=request.state.user.name, details=details)


class PageRoute(APIRoute):
    """A route for people: they get errors as a page, and scripts as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of a request."""
        handle = super().get_route_handler()

        async def handle_in_words(request: Request) -> Response:
            try:
                return await handle(request)
            except (OddlensError, RefusalError) as error:
                refusal = as_refusal(error) if isinstance(error, OddlensError) else error
                if "hx-request" in request.headers or "text/html" not in request.headers.get("accept", ""):
                    return refusal.response()
                return page(request, "learn/error.html", refusal.status, reason=sentence(refusal.reason))

        return handle_in_words


def page_router() -> APIRouter:
    """A router of pages for people."""
    return APIRouter(include_in_schema=False, route_class=PageRoute)


async def read_form(request: Request) -> AsyncIterator[FormData]:
    """The form that a request brings; its files are closed once the request is answered.

    Raises:
        RefusalError: 400, it is none.
    """
    try:
        form = await request.form(max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FIELDS)
    except (ValueError, UnicodeError) as error:
        raise RefusalError(400, "the body is not a form") from error
    yield form
    await form.close()


Form = Annotated[FormData, Depends(read_form)]


def text_of(form: FormData, name: str) -> str:
    """A text field of a form, without spaces around it; empty where it is not there."""
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def texts_of(form: FormData, name: str) -> list[str]:
    """All text fields of this name in a form."""
    return [value for value in form.getlist(name) if isinstance(value, str)]


def whole(text: str, name: str) -> int:
    """A whole number of a form.

    Raises:
        SettingsError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise SettingsError(f"{name}: must be a whole number, not {text[:20]!r}")
    return int(text)


def see(address: str) -> Response:
    """The way to a page, after something was changed."""
    return RedirectResponse(address, 303)


def sentence(text: str) -> str:
    """A message as a sentence.

    >>> sentence("there is no image")
    'There is no image.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
