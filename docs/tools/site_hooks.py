"""Hooks of MkDocs: pages that are written outside of docs/, the notebook as a page, and the links between them."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from public_names import public_names

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NOTEBOOK = "docs/start/reference-recipes.ipynb"
OUTSIDE = {  # page of the site -> file of the repository
    "project/changelog.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/benchmarks.md": "benchmarks/README.md",
    "project/kernels.md": "plugins/oddlens-kernels/README.md",
    "start/reference-recipes.md": NOTEBOOK,
}
BOOSTS = {
    "start/": 2,
    "how-to/": 2,
    "adr/": 0.3,
    "lab-notes.md": 0.3,
    "project/": 0.5,
}  # ranks of the search
PUBLIC = re.compile(r"<!-- public names of ([\w. ]+) -->")  # modules below `oddlens`
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decision records in the navigation, one by one."""
    records = [f"adr/{path.name}" for path in sorted((ROOT / "docs/adr").glob("*.md"))]
    for section in config.nav or []:
        for entry in section.get("Explanation", ()):
            if isinstance(entry, dict) and entry.get("Decision records") == "adr/":
                entry["Decision records"] = records
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source is not a Markdown file in docs/."""
    from mkdocs.structure.files import File

    for page, source in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=notebook_page(text) if source == NOTEBOOK else text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files into links to pages, insert entries for public names, and rank the page for the search."""
    here = page.file.src_uri
    source = OUTSIDE.get(here, f"docs/{here}")
    page.meta["search"] = {"boost": next((boost for name, boost in BOOSTS.items() if here.startswith(name)), 1)}
    markdown = PUBLIC.sub(lambda mark: api_entries(mark[1].split()), markdown)
    return LINK.sub(lambda link: site_link(link, here, posixpath.dirname(source)), markdown)


def api_entries(modules: list[str]) -> str:
    """The entries of the public names that these modules define, for mkdocstrings."""
    names = public_names()
    return "\n\n".join(f"::: oddlens.{name}" for module in modules for name in names if names[name] == module)


def site_link(link: re.Match[str], page: str, folder: str) -> str:
    """A link on a page, whose source is in `folder`; the text alone where the target is not on the site."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if ":" in target:
        return link[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    pages = {source: name for name, source in OUTSIDE.items()}
    name = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    if name is None:
        return text if (ROOT / path).exists() else link[0]
    return f"[{text}]({posixpath.relpath(name, posixpath.dirname(page) or '.')}{anchor})"


def notebook_page(text: str) -> str:
    """A notebook as Markdown: its text, and its code in blocks."""
    cells: list[dict[str, Any]] = json.loads(text)["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts)
