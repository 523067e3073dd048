"""Routes: log in and out, say one's name, choose a language."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from oddlens.pages.rendering import LANGUAGE_COOKIE, page
from oddlens.pages.texts import languages
from oddlens.service.refusals import RefusalError
from oddlens.service.security import MAX_NAME, NAME_COOKIE, SESSION_COOKIE
from oddlens.service.settings import ServiceSettings
from oddlens.service.users import SESSION_SECONDS, make_session, user_of_token

REFUSED_SECONDS = 0.5  # until a wrong token is refused
YEAR = 365 * 24 * 3600


def login_routes(settings: ServiceSettings) -> APIRouter:
    """The routes, which are no part of the described interface."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    async def login_page(request: Request) -> Response:
        return page(request, "login.html", next=local_path(request.query_params.get("next")), failed=False)

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = await request.form()
        target = local_path(form.get("next"))
        user = user_of_token(str(form.get("token", "")).strip(), settings.users)
        if user is None:
            await asyncio.sleep(REFUSED_SECONDS)
            return page(request, "login.html", 403, next=target, failed=True)
        response = RedirectResponse(target, 303)
        set_cookie(request, response, SESSION_COOKIE, make_session(user), SESSION_SECONDS)
        return response

    @router.post("/logout")
    async def logout() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return response

    @router.post("/name")
    async def say_name(request: Request) -> Response:
        if settings.users:
            raise RefusalError(409, "people have the names of the token file here; log in")
        form = await request.form()
        name = " ".join(str(form.get("name", "")).split())[:MAX_NAME]
        return remember(request, NAME_COOKIE, quote(name, safe=""), form.get("next"))

    @router.post("/language")
    async def choose_language(request: Request) -> Response:
        form = await request.form()
        if form.get("language") not in languages():
            raise RefusalError(422, f"language: one of {', '.join(languages())}")
        return remember(request, LANGUAGE_COOKIE, str(form["language"]), form.get("next"))

    return router


def remember(request: Request, name: str, value: str, target: object) -> Response:
    """Set a cookie for a year, and go back to the page where it was chosen."""
    response = RedirectResponse(local_path(target), 303)
    set_cookie(request, response, name, value, YEAR)
    return response


def set_cookie(request: Request, response: Response, name: str, value: str, seconds: int) -> None:
    """Set a cookie that no script reads and no other site sends; behind TLS, only over TLS."""
    secure = request.headers.get("origin", "").startswith("https:")
    response.set_cookie(name, value, max_age=seconds, httponly=True, samesite="strict", secure=secure)


def local_path(target: object) -> str:
    """An address of this service without the others that it might be a disguise of; "/" for those.

    >>> local_path("/learn?folder=1"), local_path("//evil.example"), local_path("https://evil.example/")
    ('/learn?folder=1', '/', '/')
    """
    text = str(target or "/")
    parts = urlsplit(text)
    is_local = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return text if is_local and text.isprintable() and "\\" not in text else "/"
