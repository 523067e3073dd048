from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from report_pages import chromium, open_page
from running_service import RunningService

from oddlens.service.app import PAGE_FILES, STATIC


def test_the_page_of_the_documentation_asks_nothing_of_other_addresses(service: RunningService) -> None:
    page = service.client.get("/docs")
    assert re.findall(r'(?:src|href)="([^"]+)"', page.text) == ["data:,", *(f"/docs/{name}" for name in PAGE_FILES)]
    assert "<script>" not in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    for name, (_, media_type) in PAGE_FILES.items():
        file = service.client.get(f"/docs/{name}")
        assert (file.status_code, file.headers["content-type"]) == (200, f"{media_type}; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy


def open_docs(browser: Any, service: RunningService) -> AbstractContextManager[Any]:
    """The page of the documentation; of file fields Swagger UI always says that it has no component of that name."""
    return open_page(browser, f"{service.url}/docs", tolerated="JsonSchema_string_binary")


def test_an_image_is_inspected_from_the_page_of_the_documentation(
    service: RunningService, images: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    name, content = images[0]
    (tmp_path / name).write_bytes(content)
    with chromium() as browser, open_docs(browser, service) as page:
        page.locator("#operations-inspections-inspect_images_v1_inspect_post .opblock-summary-control").click()
        page.get_by_role("button", name="Try it out").click()
        page.locator("input[type=file]").set_input_files(tmp_path / name)
        page.get_by_role("button", name="Execute").click()
        answer = page.locator(".live-responses-table .response").first
        answer.locator(".response-col_status", has_text="200").wait_for()
        assert f'"name": "{name}"' in answer.inner_text()


def test_what_is_vendored_has_its_licence_and_its_version() -> None:
    assert "Apache License" in (STATIC / "swagger-ui.LICENSE.txt").read_text()
    assert re.search(r"swagger-ui-dist \d+\.\d+\.\d+", (STATIC / "README.md").read_text())


def test_the_description_of_the_interface_has_each_route_and_its_refusals(service: RunningService) -> None:
    document = service.client.get("/openapi.json").json()
    assert document["paths"].keys() >= {
        "/v1/inspect",
        "/v1/inspections/{number}",
        "/v2/models/{name}/infer",
        "/metrics",
    }
    inspect = document["paths"]["/v1/inspect"]["post"]
    assert inspect["responses"].keys() >= {"200", "413", "415", "422", "429", "503", "504", "507"}
    assert inspect["requestBody"]["content"].keys() == {"multipart/form-data", "image/*"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/docs/other.js", 404),
        ("PUT", "/v1/inspect", 405),
        ("GET", "/v1/inspections/x", 422),
    ],
)
def test_every_error_is_json_with_a_reason(method: str, path: str, status: int, service: RunningService) -> None:
    response = service.client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]
