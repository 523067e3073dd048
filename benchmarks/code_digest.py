"""Digest of the package's code, which tells whether other code computed a benchmark cell.

    python benchmarks/code_digest.py        # print the digest of the installed package

The digest covers the multiset of top-level definitions in all .py files, and the bytes of every .c and .toml file.
Definitions are normalized: names defined in the package are replaced by their order of first appearance;
docstrings, annotations, imports, `raise` statements and f-strings are left out. File names and the order of
definitions do not count. Renaming or moving code therefore leaves the digest unchanged.

Names from outside the package (builtins, numpy, torch) are not replaced, so `np.mean` and `np.median` differ. Which of
the package's own functions is called is not covered. An attribute counts as external unless a class of the package
defines it; a rename that makes an attribute collide with an external one changes the digest.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import oddlens

PACKAGE = Path(oddlens.__file__).parent
# Digest of the code after the package was divided into subpackages, printed by `python benchmarks/code_digest.py`.
AFTER_THE_MOVE = "b0c29158fd620161"
# Digest before a restructuring -> digest after it, where tests/test_compatibility.py proves the results equal.
EQUIVALENT = {
    # Commit ed2d5a7; computed by the previous algorithm, over the bytes of all .py and .toml files.
    "755970e02330637a": AFTER_THE_MOVE,
}
LEFT_OUT = {"annotation", "returns", "ctx", "kind", "type_comment", "type_params"}


@functools.cache
def code_digest() -> str:
    """Return the digest of the installed package."""
    return package_digest(PACKAGE)


def is_current(digest: str) -> bool:
    """Return whether code with this digest computes the same as today's code."""
    return EQUIVALENT.get(digest, digest) == code_digest()


def package_digest(root: Path) -> str:
    """Return the digest of the package in the folder `root`, whose name is the package's.

    Its top-level `__init__.py` does not count: it has only the public names and the version.
    """
    trees = {path: ast.parse(path.read_bytes()) for path in root.rglob("*.py") if path != root / "__init__.py"}
    modules = {".".join([root.name, *path.relative_to(root).with_suffix("").parts]) for path in trees}
    fields, keywords = defined_names(list(trees.values()))
    parts = [path.read_bytes() for path in root.rglob("*") if path.suffix in (".c", ".toml")]
    for tree in trees.values():
        imported, aliases = imports(tree, root.name, modules)
        for statement in tree.body:
            normalized = "\0".join(Normalizer(statement, imported, aliases, fields, keywords).tokens(statement))
            parts += [normalized.encode()] if normalized else []
    hashes = sorted(hashlib.blake2b(part, digest_size=16).digest() for part in parts)
    return hashlib.blake2b(b"".join(hashes), digest_size=8).hexdigest()


def defined_names(trees: list[ast.Module]) -> tuple[set[str], set[str]]:
    """Return the attributes that the package's classes define, and the keywords that its functions accept."""
    fields: set[str] = set()
    parameters: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.arg):
            parameters.add(node.arg)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            fields.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            fields |= {statement.name for statement in node.body if isinstance(statement, ast.FunctionDef)}
            targets = [getattr(statement, "targets", [getattr(statement, "target", None)]) for statement in node.body]
            fields |= {target.id for group in targets for target in group if isinstance(target, ast.Name)}
    return fields, parameters | fields


def imports(tree: ast.Module, package: str, modules: set[str]) -> tuple[dict[str, str], set[str]]:
    """Return the external names of a module with their dotted origins, and its aliases of the package's modules."""
    outside = {name: f"builtins.{name}" for name in dir(builtins)}
    aliases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    outside[alias.asname] = alias.name
                else:
                    outside[alias.name.partition(".")[0]] = alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name, origin = alias.asname or alias.name, f"{node.module}.{alias.name}"
                if node.module.partition(".")[0] != package:
                    outside[name] = origin
                elif origin in modules:
                    aliases.add(name)
                else:
                    outside.pop(name, None)
    for statement in tree.body:  # a function of the package may shadow a builtin
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            outside.pop(statement.name, None)
    return outside, aliases


class Normalizer:
    """Turns a definition into tokens, with the package's names replaced by their order of first appearance."""

    def __init__(
        self, definition: ast.stmt, outside: dict[str, str], aliases: set[str], fields: set[str], keywords: set[str]
    ) -> None:
        bound = {node.arg for node in ast.walk(definition) if isinstance(node, ast.arg)}
        for node in ast.walk(definition):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
        self.outside = {name: origin for name, origin in outside.items() if name not in bound}
        self.aliases, self.fields, self.keywords = aliases - bound, fields, keywords
        self.order: dict[tuple[str, str], str] = {}

    def own(self, kind: str, name: str) -> str:
        """Return the placeholder of a name of the package; variables, attributes and keywords have namespaces."""
        return self.order.setdefault((kind, name), f"{kind} {len(self.order)}")

    def tokens(self, value: object) -> Iterator[str]:
        """Yield the tokens of a node, a list of nodes, or a plain value in a field of a node."""
        if isinstance(value, list):
            for item in value:
                yield from self.tokens(item)
        elif isinstance(value, ast.AST):
            yield from self.node_tokens(value)
        elif isinstance(value, str):
            yield self.own("name", value)
        elif value is not None:
            yield repr(value)

    def node_tokens(self, node: ast.AST) -> Iterator[str]:
        """Yield the tokens of one node."""
        if is_left_out(node):
            return
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            node = ast.Assign(targets=[node.target], value=node.value)
        if isinstance(node, ast.Raise | ast.JoinedStr):
            yield type(node).__name__
        elif isinstance(node, ast.Constant):
            is_path = isinstance(node.value, str) and re.fullmatch(r"oddlens(\.\w+)+", node.value)
            yield "module path" if is_path else f"{type(node.value).__name__} {node.value!r}"
        elif isinstance(node, ast.Name):
            yield self.outside.get(node.id) or self.own("name", node.id)
        elif isinstance(node, ast.Attribute):
            yield from self.attribute_tokens(node)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            yield self.own("keyword", node.arg) if node.arg in self.keywords else f"keyword {node.arg}"
            yield from self.tokens(node.value)
        else:
            yield f"{type(node).__name__}("
            for field, value in ast.iter_fields(node):
                if field not in LEFT_OUT and value not in (None, []):
                    yield f"{field}:"
                    yield from self.tokens(value)
            yield ")"

    def attribute_tokens(self, node: ast.Attribute) -> Iterator[str]:
        """Yield the tokens of an attribute; an attribute of a module of the package counts as an imported name."""
        if isinstance(node.value, ast.Name) and node.value.id in self.aliases:
            yield self.own("name", node.attr)
            return
        yield from self.tokens(node.value)
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        is_outside = isinstance(root, ast.Name) and root.id in self.outside
        yield f".{node.attr}" if is_outside or node.attr not in self.fields else self.own("attribute", node.attr)


def is_left_out(node: ast.AST) -> bool:
    """Return whether a node is an import, a bare string such as a docstring, `__all__`, or for type checkers only."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    return isinstance(node, ast.Import | ast.ImportFrom)


if __name__ == "__main__":
    print(code_digest())
