"""The pages in this process, without a server, and people who log in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from running_service import settings
from stored_inspections import DETECTOR_FILE

from oddlens.pages.app import Pages
from oddlens.service.app import create_app
from oddlens.service.service import Service
from oddlens.service.users import User

ENGINEER = User("ann", "engineer", "a-token-of-an-engineer")
OPERATOR = User("bob", "operator", "a-token-of-an-operator")
URL = "http://localhost:8000"


class PageClient:
    """A browser without scripts: it has cookies, and follows no redirect by itself."""

    def __init__(self, service: Service, runner: asyncio.Runner) -> None:
        app = create_app(service)
        Pages().attach(app, service)
        self.service, self._runner = service, runner
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Answer to a GET request."""
        return self._runner.run(self._client.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Answer to a POST request."""
        return self._runner.run(self._client.post(path, **options))

    def log_in(self, user: User, target: str = "/") -> httpx.Response:
        """Log in; the client has the cookie then."""
        return self.post("/login", data={"token": str(user.token), "next": target}, headers={"Origin": URL})


@contextmanager
def page_client(folder: Path, users: tuple[User, ...] = (), **changes: Any) -> Iterator[PageClient]:
    """A client of the pages, with a store in the folder; with `users`, people have to log in."""
    service = Service(settings(DETECTOR_FILE, store=str(folder / "parts.db"), users=users, **changes))
    with asyncio.Runner() as runner:
        client = PageClient(service, runner)
        service.open()
        try:
            yield client
        finally:
            service.close()
