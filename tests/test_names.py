"""Names in the source are terms of the field: no word of the private dialect that the code once spoke."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import oddlens

PACKAGE = Path(oddlens.__file__).parent
LEFT_BEHIND = frozenset(
    """
    found known asked made taken chosen told seen wanted given kept described fitted trained usable room sealed joined
    written learn standard hold picture pictures turn turns odd
    """.split()  # noqa: SIM905 - a list of so many short words is easier to read as text
)
EXCEPTIONS = {
    "hold_out": "the term of statistics, and a public parameter of Detector.fit",
    "DataNotFoundError": "a public exception; 'not found' is what files and addresses are everywhere",
    "pictures": "an attribute whose name begins names of tensors in detector files",
    "TrainedModel": "an adjective before its noun",
    "TrainedMember": "an adjective before its noun",
    "_check_is_fitted": "scikit-learn's term",
}


def words(name: str) -> list[str]:
    """The words of a snake_case or CamelCase name, in small letters."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module gives to something: classes, functions, parameters, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name:
            yield node.name, getattr(node, "lineno", 0)


def offences(source: str) -> list[tuple[str, int]]:
    """The names in a module's source that have a word to leave behind, with their lines."""
    return [(name, line) for name, line in bound_names(ast.parse(source)) if LEFT_BEHIND & set(words(name))]


def test_no_name_in_the_source_has_a_word_to_leave_behind() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, line in [*offences(path.read_text(encoding="utf-8")), (path.stem, 0)]
        if LEFT_BEHIND & set(words(name)) and name not in EXCEPTIONS
    ]
    assert wrong == []


def test_exceptions_are_few_and_still_needed() -> None:
    names = {name for path in PACKAGE.rglob("*.py") for name, _ in offences(path.read_text(encoding="utf-8"))}
    assert len(EXCEPTIONS) <= 10
    assert set(EXCEPTIONS) == names & set(EXCEPTIONS)


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(known): ...",
        "class Asked: ...",
        "lambda told: told",
        "for chosen in (): ...",
        "self.kept = 1",
        "import os as made",
        "best_found = 1",
        "class TestTaken: ...",
        "with open() as seen: ...",
        "[room for room in ()]",
        "(wanted := 1)",
        "def fitted(): ...",
    ],
)
def test_each_way_to_name_something_is_looked_at(source: str) -> None:
    assert len(offences(source)) == 1


def test_common_names_pass() -> None:
    assert (
        offences("def predict(scores, threshold): return_value = learning_rate = is_standardized = holdout = 1") == []
    )
