"""The guard in front of every route: Host names, tokens, writes from other sites, sizes, and headers of answers.

DNS rebinding and cross-site requests reach a loopback address through the browser of whoever sits there, so that Host,
Origin and Sec-Fetch-Site are checked everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oddlens.service.refusals import RefusalError
from oddlens.service.settings import LOCAL_NAMES, ServiceSettings

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")  # without a token: nothing of the user's
OPEN_FOLDER = "/docs/"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")  # name or address, and port
DISCARD_BYTES, DISCARD_SECONDS = 100_000_000, 1.0  # of a refused body: a proxy or client cut off loses the answer
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "no-referrer",
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
            self.check(scope["method"], scope["path"], Headers(scope=scope))
        except RefusalError as refusal:
            await refusal.response()(scope, receive, send_with_headers)
            return
        await self.app(scope, receive_within_limit, send_with_headers)

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Refuse a request by its headers.

        Raises:
            RefusalError: 400, 401, 403, 413 or 415, and why.
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.is_allowed(hosts[0]):
            raise RefusalError(400, "this Host name is not served; allow it with --allow-host NAME")
        if method not in SAFE_METHODS:
            check_site(headers, hosts[0])
        if self.settings.token is not None and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
            check_token(headers, self.settings.token)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.max_body_bytes:
            raise self.too_large()
        if headers.get("content-encoding", "identity") != "identity":
            raise RefusalError(415, "send the body without Content-Encoding")

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


def check_token(headers: Headers, token: str) -> None:
    """Refuse a request without the token.

    Raises:
        RefusalError: 401.
    """
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    is_right = secrets.compare_digest(sent.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise RefusalError(401, "send the token of this service: Authorization: Bearer TOKEN")
