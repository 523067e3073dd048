from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_client import ENGINEER, page_client

import oddlens.pages
from oddlens.pages.static_files import static_contents

STATIC = Path(oddlens.pages.__file__).parent / "static"


def test_files_are_served_without_a_login_and_asked_for_again(tmp_path: Path) -> None:
    with page_client(tmp_path, (ENGINEER,)) as client:
        response = client.get("/static/pages.css")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/css; charset=utf-8")
        again = client.get("/static/pages.css", headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get("/static/colors.css").status_code == 200


@pytest.mark.parametrize("name", ["README.md", "..%2Fapp.py", "%2e%2e/app.py", "htmx.LICENSE.txt", "x.css"])
def test_nothing_else_is_served(tmp_path: Path, name: str) -> None:
    with page_client(tmp_path) as client:
        assert client.get(f"/static/{name}").status_code == 404


def test_what_is_vendored_has_its_licence_and_its_version() -> None:
    readme = (STATIC / "vendored" / "README.md").read_text()
    for path in (STATIC / "vendored").iterdir():
        assert f"`{path.name}`" in readme or path.name == "README.md"
    assert re.findall(r"(htmx\.org|uplot) \d+\.\d+\.\d+", readme) == ["htmx.org", "uplot"]


def test_no_file_of_ours_has_an_address_outside_the_service() -> None:
    for name, (content, _) in static_contents().items():
        if not (STATIC / "vendored" / name).exists():
            addresses = re.findall(rb"https?://[^\s\"')]+", content)
            assert addresses in ([], [b"http://www.w3.org/2000/svg"]), name
