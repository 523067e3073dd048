"""The guard in front of every route: Host names, tokens, writes from other sites, sizes, and headers of answers.

DNS rebinding and cross-site requests reach a loopback address through the browser of whoever sits there, so that Host,
Origin and Sec-Fetch-Site are checked everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import getpass
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oddlens.service.refusals import RefusalError
from oddlens.service.settings import LOCAL_NAMES, ServiceSettings
from oddlens.service.users import User, user_of_session, user_of_token

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json", "/login")  # without a token:
OPEN_FOLDERS = ("/docs/", "/static/")  # they tell nothing of the user's
ENGINEER_PATHS = re.compile(r"/learn(/.*)?|/v1/detectors/[^/]+/reload")
SESSION_COOKIE, NAME_COOKIE = "oddlens_session", "oddlens_name"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")  # name or address, and port
DISCARD_BYTES, DISCARD_SECONDS = 100_000_000, 1.0  # of a refused body: a proxy or client cut off loses the answer
MAX_NAME = 64  # characters of the name that a person gives
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "same-origin",  # with none, browsers send forms with `Origin: null`
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware that refuses a request before anything of it is parsed."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app, self.settings = app, settings
        self.host_names = {*LOCAL_NAMES, settings.host.lower(), *map(str.lower, settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        received, is_complete = 0, False

        async def receive_counted() -> Message:
            nonlocal received, is_complete
            message = await receive()
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            return message

        async def receive_within_limit() -> Message:
            message = await receive_counted()
            if received > self.settings.max_body_bytes:
                raise self.too_large()
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DISCARD_SECONDS):
                        while not is_complete and received < DISCARD_BYTES:
                            await receive_counted()
                headers = MutableHeaders(scope=message)
                if not is_complete:
                    headers["Connection"] = "close"  # the rest of the body is no request
                for name, value in ANSWER_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            user = self.check(scope["method"], scope["path"], Headers(scope=scope))
        except RefusalError as refusal:
            response = self.login_redirect(scope) if refusal.status == 401 else None
            await (response or refusal.response())(scope, receive, send_with_headers)
            return
        scope.setdefault("state", {})["user"] = user
        await self.app(scope, receive_within_limit, send_with_headers)

    def check(self, method: str, path: str, headers: Headers) -> User | None:
        """Refuse a request by its headers. Returns who makes it; None at addresses that are open to everyone.

        Raises:
            RefusalError: 400, 401, 403, 413 or 415, and why.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.is_allowed(hosts[0]):
            raise RefusalError(400, "this Host name is not served; allow it with --allow-host NAME")
        if method not in SAFE_METHODS:
            check_site(headers, hosts[0])
        user = find_user(headers, self.settings.users)
        if user is None and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDERS):
            raise RefusalError(401, "send the token of this service: Authorization: Bearer TOKEN")
        if ENGINEER_PATHS.fullmatch(path) and (user is None or user.role != "engineer"):
            raise RefusalError(403, "this is for engineers; log in as one")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.max_body_bytes:
            raise self.too_large()
        if headers.get("content-encoding", "identity") != "identity":
            raise RefusalError(415, "send the body without Content-Encoding")
        return user

    def login_redirect(self, scope: Scope) -> Response | None:
        """The way to the login for a person in a browser; None for a program."""
        headers = Headers(scope=scope)
        if self.settings.store is None:  # there are no pages
            return None
        if headers.get("hx-request") == "true":
            page = urlsplit(headers.get("hx-current-url", ""))
            return Response(status_code=401, headers={"HX-Redirect": login_address(page.path, page.query)})
        if scope["method"] != "GET" or "text/html" not in headers.get("accept", ""):
            return None
        return RedirectResponse(login_address(scope["path"], scope["query_string"].decode("latin-1")), 303)

    def too_large(self) -> RefusalError:
        """The answer to a body that is too large, or has no length that is a number."""
        limit = f"{self.settings.max_mb:g} MB"
        return RefusalError(413, f"the body is larger than the limit of {limit} (--max-mb)")

    def is_allowed(self, host: str) -> bool:
        """Whether a Host header names this service; addresses in digits always do, as no name leads to them."""
        match = HOST.fullmatch(host)
        return match is not None and (match[1].lower() in self.host_names or is_address(match[1].strip("[]")))


def is_address(name: str) -> bool:
    """Whether a name is an address in digits."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_site(headers: Headers, host: str) -> None:
    """Refuse a write that the page of another site makes a browser send.

    Raises:
        RefusalError: 403.
    """
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise RefusalError(403, "a page of another site may not write here")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise RefusalError(403, "a page of another origin may not write here")


def find_user(headers: Headers, users: Sequence[User]) -> User | None:
    """Who makes a request, by token or cookie; where nobody needs a token, an engineer of the name that they gave."""
    cookies = cookie_parser(headers.get("cookie", ""))
    if not users:
        return User(unquote(cookies.get(NAME_COOKIE, ""))[:MAX_NAME].strip() or login_name(), "engineer")
    if "authorization" in headers:
        scheme, _, token = headers["authorization"].partition(" ")
        return user_of_token(token.strip(), users) if scheme.lower() == "bearer" else None
    return user_of_session(cookies.get(SESSION_COOKIE, ""), users)


@functools.cache
def login_name() -> str:
    """The name of the account under which this process runs."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a list of accounts
        return "operator"


def login_address(path: str, query: str) -> str:
    """The address of the login, after which a person comes to the page of this path and query.

    >>> login_address("/", "station=2")
    '/login?next=/%3Fstation%3D2'
    """
    page = path + (f"?{query}" if query else "")
    return f"/login?next={quote(page)}" if page else "/login"
