from __future__ import annotations

import json
from pathlib import Path

from page_client import page_client

from oddlens.pages.rendering import as_json, environment


def test_values_are_text_and_never_html() -> None:
    assert environment().from_string("{{ name }}").render(name="<script>") == "&lt;script&gt;"


def test_json_in_a_page_ends_no_script() -> None:
    value = {"name": "</script><script>alert(1)</script>", "é": "&<>"}
    text = str(as_json(value))
    assert json.loads(text) == value
    assert not set("<>&") & set(text)


def test_pages_have_no_inline_style_script_or_handler(tmp_path: Path) -> None:
    with page_client(tmp_path) as client:
        response = client.get("/components")
    assert "unsafe" not in response.headers["content-security-policy"]
    for inline in ("style=", "<style", "onclick", "<script>", "javascript:"):
        assert inline not in response.text
