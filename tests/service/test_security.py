from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from running_service import noise, running, settings
from starlette.datastructures import Headers
from stored_inspections import DETECTOR_FILE

from oddlens.service.refusals import RefusalError
from oddlens.service.security import Guard
from oddlens.service.users import User, make_session

TOKEN = "a-token-of-24-characters"
OPERATOR = User("bob", "operator", "a-token-of-an-operator")


async def application(*arguments: object) -> None:
    """Never called."""


def check(method: str = "POST", path: str = "/v1/inspect", token: str | None = None, **headers: str) -> int:
    """The status with which the guard refuses a request; 200 if it does not."""
    users = () if token is None else (User("token", "engineer", token), OPERATOR)
    guard = Guard(application, settings(DETECTOR_FILE, users=users, allowed_hosts=("Camera.example",)))
    names = {name.replace("_", "-"): value for name, value in ({"host": "localhost:8000"} | headers).items()}
    try:
        guard.check(method, path, Headers(names))
    except RefusalError as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "192.168.1.5", "camera.example", "[fe80::1]"]
)
def test_our_names_and_addresses_in_digits_are_served(host: str) -> None:
    assert check(host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", "localhost:x",
     "[localhost]", "localhost/", "evil.example:8000"],
)  # fmt: skip
def test_other_names_are_refused(host: str) -> None:
    assert check(host=host) == 400
    assert check("GET", host=host) == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://localhost:8000"}, 200),  # behind a proxy that speaks TLS
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_writes_come_from_our_own_pages_or_from_programs(headers: dict[str, str], status: int) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert check(method, **headers) == status
    assert check("GET", **headers) == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"]
)
def test_without_the_token_nothing_but_health_and_the_docs_is_answered(given: str) -> None:
    for path in ("/v1/inspect", "/metrics", "/v1/inspections/1/map.png", "/v2", "/docsx", "/v2/health/live/x"):
        assert check("GET", path, TOKEN, authorization=given) == 401
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/docs",
        "/docs/start.js",
        "/openapi.json",
        "/login",
        "/static/a.css",
    ):
        assert check("GET", path, TOKEN, authorization=given) == 200
    assert check("POST", "/login", TOKEN) == check("GET", "/static/pages.css", TOKEN) == 200
    assert check("GET", "/metrics", TOKEN, authorization=f"bearer {TOKEN}") == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"content_length": "999999999"}, 413), ({"content_length": "-1"}, 413), ({"content_encoding": "gzip"}, 415)],
)
def test_what_is_too_large_or_compressed_is_refused_before_it_is_read(headers: dict[str, str], status: int) -> None:
    assert check(**headers) == status


def test_a_service_for_other_machines_asks_for_its_token_and_never_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    arguments = (DETECTOR_FILE, "--no-store", "--host", "0.0.0.0", "--token-file", file)
    with running(*arguments, token=TOKEN) as service:
        url = f"http://127.0.0.1:{service.port}"
        assert httpx.get(f"{url}/v1/detectors").status_code == 401
        assert httpx.get(f"{url}/v1/detectors?token={TOKEN}").status_code == 401
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200
        answer = httpx.post(
            f"{url}/v1/inspect", files={"file": noise()}, headers={"Authorization": f"Bearer {TOKEN}"}
        ).json()
        assert answer["inspections"][0]["id"] is None
        code, errors = service.stop()
    assert (code, TOKEN in errors) == (0, False)


@pytest.mark.parametrize("path", ["/learn", "/learn/folders/1", "/v1/detectors/part/reload"])
def test_what_is_for_engineers_is_refused_to_operators(path: str) -> None:
    for headers in (
        {"authorization": f"Bearer {OPERATOR.token}"},
        {"cookie": f"oddlens_session={make_session(OPERATOR)}"},
    ):
        assert check("POST", path, TOKEN, **headers) == 403
        assert check("POST", "/v1/inspect", TOKEN, **headers) == 200
        assert check("GET", "/learned", TOKEN, **headers) == 200  # another address, which does not exist
    assert check("POST", path, TOKEN, authorization=f"Bearer {TOKEN}") == 200
    assert check("POST", path, TOKEN, cookie=f"oddlens_session={make_session(User('token', 'engineer', TOKEN))}") == 200


@pytest.mark.parametrize("cookie", ["", "x", "bob.99999999999." + "0" * 64, make_session(OPERATOR, now=0.0)])
def test_a_cookie_that_is_forged_or_over_is_none(cookie: str) -> None:
    assert check("GET", "/", TOKEN, cookie=f"oddlens_session={cookie}") == 401


def test_a_browser_without_a_login_is_led_to_it_and_a_program_is_not(tmp_path: Path) -> None:
    guard = Guard(application, settings(DETECTOR_FILE, users=(OPERATOR,), store=str(tmp_path / "parts.db")))

    def redirect(method: str = "GET", **headers: str) -> tuple[str | None, str | None] | None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": "/station/review", "query_string": b"a=%2F", "headers": raw}
        response = guard.login_redirect(scope)
        return None if response is None else (response.headers.get("location"), response.headers.get("hx-redirect"))

    assert redirect(accept="text/html,*/*") == ("/login?next=/station/review%3Fa%3D%252F", None)
    assert redirect(hx_request="true", accept="text/html") == (None, "/login")
    page = "http://localhost:8000/learn/jobs/1?rate=0.4"
    assert redirect(hx_request="true", hx_current_url=page) == (None, "/login?next=/learn/jobs/1%3Frate%3D0.4")
    assert redirect(accept="application/json") is None
    assert redirect("POST", accept="text/html") is None


def test_where_nobody_logs_in_people_are_engineers_of_the_name_that_they_gave() -> None:
    guard = Guard(application, settings(DETECTOR_FILE))
    assert guard.check("GET", "/", Headers({"host": "localhost", "cookie": "oddlens_name=J%C3%B6rg%20K."})) == User(
        "Jörg K.", "engineer"
    )
    anyone = guard.check("GET", "/", Headers({"host": "localhost"}))
    assert anyone is not None
    assert anyone.name
