"""The names that `oddlens` exports, read from its source without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src/oddlens/__init__.py"


def public_names() -> dict[str, str]:
    """Each public name, with the module below `oddlens` that defines it."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.name: str(node.module).removeprefix("oddlens.")
        for node in imports
        if str(node.module).startswith("oddlens.")
        for alias in node.names
        if alias.asname == alias.name
    }
