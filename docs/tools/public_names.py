"""The names that `oddlens` exports, and whether they are documented, from its source without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src/oddlens"


def public_names() -> dict[str, str]:
    """Each public name, with the module below `oddlens` that defines it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        alias.name: str(node.module).removeprefix("oddlens.")
        for node in imports
        if str(node.module).startswith("oddlens.")
        for alias in node.names
        if alias.asname == alias.name
    }


def has_docstring(module: str, name: str) -> bool:
    """Whether a class or function of a module below `oddlens` has a docstring."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    return any(ast.get_docstring(node) for node in nodes)
