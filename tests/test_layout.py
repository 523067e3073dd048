"""The layout of the package: few files a package, no loose modules, and a test module beside each module."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from image_route import packages, returns, routes

import oddlens

PACKAGE = Path(oddlens.__file__).parent
TESTS = Path(__file__).parent
LOOSE = {"__init__.py", "__main__.py", "errors.py", "metrics.py"}
MAX_FILES = 18
UNTESTED_BY_NAME = {"errors", "__main__"}  # an exception tree without behaviour; four lines that call the command line


def test_only_four_modules_stand_beside_the_packages() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == LOOSE


def test_no_package_has_more_than_18_files() -> None:
    counts = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert max(counts.values()) <= MAX_FILES, counts


def test_each_module_has_its_test_module() -> None:
    modules = [path.relative_to(PACKAGE).with_suffix("") for path in sorted(PACKAGE.rglob("*.py"))]
    missing = [
        str(module)
        for module in modules
        if module.name != "__init__"
        and str(module) not in UNTESTED_BY_NAME
        and not (TESTS / module.parent / f"test_{module.name}.py").exists()
    ]
    assert missing == []


def test_each_package_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert re.match(r'"""[A-Z`].+', path.read_text(encoding="utf-8")), path


def test_images_come_back_to_a_package_that_they_left_at_most_twice(tmp_path: Path) -> None:
    """From a call to the first `forward` of a model, by the packages that the images pass through."""
    ways = {name: packages(modules) for name, modules in routes(tmp_path).items()}
    assert {name: way[0] for name, way in ways.items()} == {
        "Detector.fit": "detector",
        "Detector.score": "detector",
        "oddlens fit": "cli",
    }
    assert {way[-1] for way in ways.values()} == {"models"}
    assert {name: returns(way) for name, way in ways.items() if returns(way) > 2} == {}
