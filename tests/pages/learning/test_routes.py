from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastapi.routing import APIRoute
from learning_client import HTML, Engineer, engineer_client, texts
from page_client import ENGINEER, OPERATOR
from photo_folders import write_photos

from oddlens.pages.app import Pages
from oddlens.pages.learning.folders import identity
from oddlens.service.app import create_app

SOME_ID = "0123456789abcdef"
EVIL = {"Origin": "https://evil.example", "Accept": "text/html"}


def all_routes(routes: Iterable[object]) -> Iterator[APIRoute]:
    """The routes of an application, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif included := getattr(route, "original_router", None):
            yield from all_routes(included.routes)


def addresses(engineer: Engineer) -> list[tuple[str, str]]:
    """The method and the address of each route of the engineer's pages."""
    service, pages = engineer.client.service, Pages()
    app = create_app(service, extensions=[pages])
    routes = [route for route in all_routes(app.routes) if route.path.startswith("/learn")]
    assert len(routes) > 20
    return [(method, re.sub(r"\{\w+\}", SOME_ID, route.path)) for route in routes for method in route.methods or ()]


def test_an_operator_is_refused_at_every_address(tmp_path: Path) -> None:
    with engineer_client(tmp_path, (ENGINEER, OPERATOR)) as engineer:
        engineer.client.log_in(OPERATOR)
        for method, address in addresses(engineer):
            call = engineer.client.get if method == "GET" else engineer.client.post
            assert call(address, headers=HTML).status_code == 403, (method, address)
        assert engineer.client.get("/components").status_code == 200


def test_without_a_login_every_address_leads_to_it_or_is_refused(tmp_path: Path) -> None:
    with engineer_client(tmp_path, (ENGINEER,)) as engineer:
        for method, address in addresses(engineer):
            if method == "GET":
                assert engineer.get(address).headers["location"].startswith("/login")
            else:
                assert engineer.post(address).status_code == 401


def test_the_form_of_another_site_does_nothing_at_any_address(engineer: Engineer) -> None:
    for method, address in addresses(engineer):
        if method == "POST":
            response = engineer.client.post(address, data={"folder": engineer.folder(), "name": "x"}, headers=EVIL)
            assert response.status_code == 403, address
    assert engineer.work.projects.all() == []
    assert engineer.actions() == []


def test_the_first_page_has_each_folder_and_begins_a_project_with_it(engineer: Engineer) -> None:
    write_photos(engineer.root / "<b>bold</b>" / "<i>", 2)
    page = engineer.page("/learn")
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "72 photographs" in texts(page)
    response = engineer.post("/learn/projects", folder=engineer.folder("<b>bold</b>"))
    page = engineer.page(response.headers["location"])
    assert "<b>bold" not in page
    assert engineer.actions()[-1][1] == "begin"
    assert "Your projects" in engineer.page("/learn")


def test_images_have_a_tag_and_are_not_sent_twice(engineer: Engineer) -> None:
    project = engineer.project()
    for kind in ("thumbnails", "images"):
        address = f"/learn/folders/{project.folder}/{kind}/{engineer.photos(project)[0]}"
        response = engineer.get(address)
        assert (response.headers["content-type"], response.content[:4]) == ("image/png", b"\x89PNG")
        again = engineer.get(address, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert engineer.get(f"/learn/folders/{project.folder}/thumbnail").status_code == 200


def test_no_address_leads_out_of_the_root(engineer: Engineer, tmp_path: Path) -> None:
    write_photos(tmp_path / "secret", 1)
    (engineer.root / "way_out").symlink_to(tmp_path / "secret")
    (engineer.root / "parts" / "train" / "good" / "zz.png").symlink_to(tmp_path / "secret" / "000.png")
    page, folder = engineer.page("/learn"), engineer.folder()
    assert "way_out" not in page
    names = ["..%2f..%2fsecret", "%252e%252e", identity("../secret"), identity("way_out"), "secret", "parts"]
    for name in names:
        for address in (
            f"/learn/folders/{name}/thumbnail",
            f"/learn/folders/{name}/images/{SOME_ID}",
            f"/learn/folders/{folder}/images/{name}",
            f"/learn/projects/{name}",
            f"/learn/jobs/{name}/report",
        ):
            assert engineer.get(address).status_code == 404, address
        assert engineer.post("/learn/projects", folder=name).status_code == 404
    for path in ("../secret/000.png", "train/good/zz.png"):
        assert engineer.get(f"/learn/folders/{folder}/images/{identity(path)}").status_code == 404


def test_photographs_that_people_bring_become_a_folder_and_others_are_refused_by_name(engineer: Engineer) -> None:
    good = (engineer.root / "parts/train/good/000.png").read_bytes()
    files = [("file", ("../<b>.png", good)), ("file", ("notes.txt", b"hello")), ("file", ("again.png", good))]
    answer = engineer.client.post("/learn/uploads", data={"name": "Lids <i>"}, files=files, headers=HTML).json()
    assert answer["added"] == 1
    assert [name for name, _ in answer["refused"]] == ["notes.txt", "again.png"]
    page = engineer.page("/learn")
    assert "Lids &lt;i&gt;" in page
    response = engineer.post("/learn/projects", folder=answer["folder"], name="Lids")
    assert "1" in engineer.page(response.headers["location"])
    assert [action for _, action in engineer.actions()] == ["upload", "begin"]
    assert not any(engineer.root.parent.rglob("*<b>*"))


def test_photographs_without_a_name_for_their_folder_are_refused(engineer: Engineer) -> None:
    good = (engineer.root / "parts/train/good/000.png").read_bytes()
    files = [("file", ("a.png", good))]
    assert engineer.client.post("/learn/uploads", data={"name": " "}, files=files, headers=HTML).status_code == 422
