"""Check the built site: nothing is loaded from outside, and every public name is documented.

`python docs/tools/check_site.py site` prints what is wrong and exits with code 1; broken links fail the build itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from public_names import has_docstring, public_names

LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")
IN_STYLES = re.compile(r"(?:url\(|@import\s)\s*[\"']?(?:https?:)?//[^\"')\s]+")
CANONICAL = re.compile(r"<link[^>]*rel=[\"']?canonical")


def outside_addresses(site: Path) -> Iterator[str]:
    """What pages and styles load from other hosts; links that a reader may follow are none of it."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        pattern = LOADED if path.suffix == ".html" else IN_STYLES
        for match in pattern.finditer(path.read_text(encoding="utf-8")):
            if not CANONICAL.match(match[0]):
                yield f"{path.relative_to(site)}: loads {match[0]}"


def undocumented_names(site: Path, names: Mapping[str, str]) -> Iterator[str]:
    """Public names (with their modules) without an entry in the Python reference, or without a docstring."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference/python").glob("*.html"))
    for name, module in names.items():
        if f'id="oddlens.{name}"' not in pages:
            yield f"oddlens.{name} is public, but has no entry: name its module {module} in docs/reference/python"
        if not has_docstring(module, name):
            yield f"oddlens.{name} is public, but has no docstring"


def main(site: Path) -> int:
    """Print every problem of the site. Returns the exit code."""
    problems = [*outside_addresses(site), *undocumented_names(site, public_names())]
    print("\n".join(problems) or f"{site}: every public name is documented, and nothing is loaded from outside")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
