"""Routes: the first page, photographs, and what is said of them before a detector is fitted: projects."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from oddlens.pages.learning import project_pages
from oddlens.pages.learning.engineering import Engineering, Form, page_router, see, text_of
from oddlens.pages.learning.folders import thumbnail
from oddlens.pages.rendering import page

LARGE_SIDE = 1600  # pixels of a photograph that is looked at
AT_ONCE = 2  # photographs that are decoded at the same time: inspections come first


def folder_routes(work: Engineering) -> APIRouter:
    """The first page, folders and their photographs, and uploads."""
    router, decoding = page_router(), asyncio.Semaphore(AT_ONCE)

    @router.get("/learn")
    def start(request: Request) -> Response:
        return page(request, "learn/start.html", **project_pages.start_values(work))

    @router.post("/learn/uploads")
    async def upload(request: Request, form: Form) -> Response:
        uploads = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
        files = [(file.filename or "image", await file.read()) for file in uploads]
        added = await asyncio.to_thread(work.photographs.add_uploads, text_of(form, "name"), files)
        if added.n_added:
            await asyncio.to_thread(
                work.record, request, "upload", text_of(form, "name"), folder=added.folder, n=added.n_added
            )
        return JSONResponse({"folder": added.folder, "added": added.n_added, "refused": added.refused})

    @router.get("/learn/folders/{folder}/thumbnail")
    async def first_image(folder: str, request: Request) -> Response:
        return await shown(request, await asyncio.to_thread(project_pages.first_image, work, folder), None)

    @router.get("/learn/folders/{folder}/images/{image}")
    async def image(folder: str, image: str, request: Request) -> Response:
        return await photograph(request, folder, image, LARGE_SIDE)

    @router.get("/learn/folders/{folder}/thumbnails/{image}")
    async def small_image(folder: str, image: str, request: Request) -> Response:
        return await photograph(request, folder, image, None)

    async def photograph(request: Request, folder: str, image: str, side: int | None) -> Response:
        return await shown(request, await asyncio.to_thread(work.photographs.image, folder, image), side)

    async def shown(request: Request, path: Path, side: int | None) -> Response:
        headers = {"ETag": tag_of(path, side), "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        async with decoding:
            content = await asyncio.to_thread(thumbnail, path, *([] if side is None else [side]))
        return Response(content, media_type="image/png", headers=headers)

    return router


def tag_of(path: Path, side: int | None) -> str:
    """A tag that changes with the file."""
    status = path.stat()
    text = f"{path}|{status.st_size}|{status.st_mtime_ns}|{side}"
    return f'"{hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]}"'


def project_routes(work: Engineering) -> APIRouter:
    """Projects: their photographs, the region of interest, the check, and the settings of a fit."""
    router = page_router()

    @router.post("/learn/projects")
    def create(request: Request, form: Form) -> Response:
        folder = text_of(form, "folder")
        project = work.projects.create(text_of(form, "name") or work.photographs.subject(folder), folder)
        work.record(request, "begin", project.name, project=project.id)
        return see(f"/learn/projects/{project.id}")

    @router.get("/learn/projects/{project}")
    def photographs(project: str, request: Request) -> Response:
        return project_pages.photographs_page(work, request, work.projects.get(project))

    @router.post("/learn/projects/{project}/photographs")
    def exclude(project: str, request: Request, form: Form) -> Response:
        return project_pages.exclude(work, request, project, form)

    @router.post("/learn/projects/{project}/name")
    def rename(project: str, request: Request, form: Form) -> Response:
        return project_pages.rename(work, request, project, form)

    @router.get("/learn/projects/{project}/region")
    def region(project: str, request: Request) -> Response:
        return project_pages.region_page(work, request, work.projects.get(project))

    @router.post("/learn/projects/{project}/region")
    def draw(project: str, request: Request, form: Form) -> Response:
        return project_pages.draw(work, request, project, form)

    @router.get("/learn/projects/{project}/check")
    def check(project: str, request: Request) -> Response:
        return project_pages.check_page(work, request, work.projects.get(project))

    @router.get("/learn/projects/{project}/fit")
    def fit(project: str, request: Request) -> Response:
        return project_pages.fit_page(work, request, work.projects.get(project))

    @router.post("/learn/projects/{project}/settings")
    def settings(project: str, request: Request, form: Form) -> Response:
        return project_pages.change_settings(work, request, project, form)

    @router.post("/learn/projects/{project}/normal")
    def normal(project: str, request: Request, form: Form) -> Response:
        return project_pages.choose_normal(work, request, project, form)

    return router
