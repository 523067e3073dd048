from __future__ import annotations

from pathlib import Path

import pytest
from page_client import ENGINEER, OPERATOR, URL, page_client

from oddlens.pages.login import local_path


def test_a_person_logs_in_once_and_out_again(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER, OPERATOR)) as client:
        html = {"Accept": "text/html"}
        assert client.get("/components", headers=html).headers["location"] == "/login?next=/components"
        login = client.get("/?station=2&x=%C3%A4", headers=html).headers["location"]
        assert 'name="next" value="/?station=2&amp;x=%C3%A4"' in client.get(login).text
        assert "password" in client.get("/login").text
        response = client.log_in(OPERATOR, "/components")
        assert (response.status_code, response.headers["location"]) == (303, "/components")
        cookie = response.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert str(OPERATOR.token) not in cookie
        assert "bob" in client.get("/components").text
        client.post("/logout")
        assert client.get("/components", headers=html).status_code == 303


def test_a_wrong_token_is_refused_in_words_and_sets_no_cookie(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER,)) as client:
        response = client.log_in(OPERATOR)
        assert (response.status_code, "set-cookie" in response.headers) == (403, False)
        assert "not valid" in response.text


def test_behind_tls_the_cookie_is_for_tls_alone(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER,)) as client:
        secure = client.post(
            "/login", data={"token": str(ENGINEER.token)}, headers={"Origin": URL.replace("http:", "https:")}
        )
        assert "Secure" in secure.headers["set-cookie"]
        assert "Secure" not in client.log_in(ENGINEER).headers["set-cookie"]


def test_the_form_of_another_site_logs_nobody_in(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER,)) as client:
        response = client.post(
            "/login", data={"token": str(ENGINEER.token)}, headers={"Origin": "https://evil.example"}
        )
        assert (response.status_code, "set-cookie" in response.headers) == (403, False)


def test_where_nobody_logs_in_people_give_their_name(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        response = client.post("/name", data={"name": "  Jörg <b>K.</b>\n", "next": "/components"})
        assert response.headers["location"] == "/components"
        page = client.get("/components").text
        assert "Jörg &lt;b&gt;K.&lt;/b&gt;" in page
        assert "<b>K." not in page


def test_where_people_log_in_nobody_takes_another_name(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER,)) as client:
        client.log_in(ENGINEER)
        assert client.post("/name", data={"name": "bob"}).status_code == 409


def test_the_language_stays_chosen(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        assert 'lang="en"' in client.get("/components").text
        client.post("/language", data={"language": "de", "next": "/components"})
        assert 'lang="de"' in client.get("/components").text
        assert client.post("/language", data={"language": "../en"}).status_code == 422


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/a\nb", "", None, "x"],
)
def test_nobody_is_led_to_another_site(target: object) -> None:
    assert local_path(target) == "/"
