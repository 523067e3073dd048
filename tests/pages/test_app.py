from __future__ import annotations

from pathlib import Path

from page_client import page_client


def test_the_page_of_components_shows_them_all(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        text = client.get("/components").text
    for component in ("verdict ok", "verdict ng", "notice warning", "tiles", "progress", "overlay"):
        assert component in text


def test_pages_are_no_part_of_the_interface_for_programs(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert paths
    assert not [path for path in paths if not path.startswith(("/v1", "/v2", "/metrics"))]
