"""axe-core over a page, with $AXE_CORE, the path of axe.min.js of the npm package axe-core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def axe_source() -> str:
    """The script of axe-core; skips the test where it is not at hand."""
    script = Path(os.environ.get("AXE_CORE", ""))
    if not script.is_file():
        pytest.skip("needs axe-core: `npm pack axe-core`, unpack it, and set AXE_CORE to its axe.min.js")
    return script.read_text(encoding="utf-8")


def violations(page: Any, n_passes: int) -> list[tuple[str, str, list[str]]]:
    """What axe, which is in the page, has to say: rule, impact and elements; at least so many rules must pass."""
    result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert len(result["passes"]) > n_passes
    return [(rule["id"], rule["impact"], [node["html"] for node in rule["nodes"]]) for rule in result["violations"]]
