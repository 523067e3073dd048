"""The engineer's pages in this process: photographs, people, and a fit that is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from page_client import URL, PageClient, page_client
from photo_folders import QUICK, do_here, write_parts

from oddlens.pages.learning.engineering import Engineering
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.projects import FitSettings, Project
from oddlens.service.users import User

HTML = {"Accept": "text/html", "Origin": URL}


class Engineer:
    """Somebody at a browser without scripts, and what lies behind the pages."""

    def __init__(self, client: PageClient, root: Path) -> None:
        self.client, self.root = client, root
        self.work = Engineering(client.service)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A page."""
        return self.client.get(path, **{"headers": HTML} | options)

    def post(self, path: str, **fields: object) -> httpx.Response:
        """The answer to a form."""
        return self.client.post(path, data=fields, headers=HTML)

    def page(self, path: str) -> str:
        """The text of a page that must be fine."""
        response = self.get(path)
        assert response.status_code == 200, response.text
        return response.text

    def folder(self, name: str = "parts") -> str:
        """The id of a folder."""
        return next(folder.id for folder in self.work.photographs.folders() if folder.name == name)

    def project(self, settings: FitSettings = QUICK, folder: str = "parts") -> Project:
        """A new project."""
        project = self.work.projects.create("Caps", self.folder(folder))
        return self.work.projects.change(project.id, 1, settings=settings)

    def photos(self, project: Project) -> list[str]:
        """The ids of the photographs of a project."""
        return [photo.id for photo in self.work.photographs.images(project.folder)]

    def done(self, project: Project, kind: Any = "fit") -> Job:
        """A job of a project that is done."""
        return do_here(self.work.jobs.add(kind, project, "ann"))

    def actions(self) -> list[tuple[str, str]]:
        """Who did what, oldest first."""
        return [(action.person, action.action) for action in self.work.store.actions()][::-1]


@contextmanager
def engineer_client(folder: Path, users: tuple[User, ...] = (), **changes: Any) -> Iterator[Engineer]:
    """An engineer whose root has the photographs `parts`, and nothing in service."""
    root = folder / "photos"
    if not root.exists():
        write_parts(root / "parts")
    with page_client(folder, users, root=root, **{"detectors": {}} | changes) as client:
        yield Engineer(client, root)


def texts(page: str) -> str:
    """What a page says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<[^>]*>", " ", page, flags=re.DOTALL))
