"""Static files: scripts, styles and icons by their names in a closed table; no address becomes a path."""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from oddlens.service.refusals import RefusalError

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOLDERS = (files("oddlens.pages") / "static", files("oddlens.pages") / "static" / "vendored")
COLORS = "colors.css"  # of reports and pages alike
CACHING = "no-cache"  # asked for again each time, and answered with 304


@functools.cache
def static_contents() -> dict[str, tuple[bytes, str]]:
    """The content and the media type of each file."""
    paths = [entry for folder in FOLDERS for entry in folder.iterdir() if entry.is_file()]
    paths.append(files("oddlens.reporting") / "templates" / COLORS)
    return {
        path.name: (path.read_bytes(), media_type)
        for path in paths
        for suffix, media_type in TYPES.items()
        if path.name.endswith(suffix)
    }


def static_routes() -> APIRouter:
    """The routes below /static."""
    router = APIRouter(include_in_schema=False)

    @router.get("/static/{name}")
    async def static_file(name: str, request: Request) -> Response:
        if name not in static_contents():
            raise RefusalError(404, "there is no such file")
        content, media_type = static_contents()[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Cache-Control": CACHING}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return router
