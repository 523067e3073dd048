"""The docs say what is so: every link, option and public name, and the tables that the program makes itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import options_tables
import pytest
import site_hooks
from check_site import outside_addresses, undocumented_names
from docs_workspace import write_named_sets
from nbclient import NotebookClient
from public_names import has_docstring, public_names

import oddlens

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("plugins/*/README.md")])
NOTEBOOK = ROOT / "docs/start/reference-recipes.ipynb"
COMMAND_LINE = ROOT / "docs/reference/command-line.md"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_tables_of_options_are_those_of_the_program() -> None:
    page = COMMAND_LINE.read_text(encoding="utf-8")
    assert page == options_tables.with_tables(page), "run `python docs/tools/options_tables.py`"


def test_every_command_has_a_section_with_its_options_and_no_other_has() -> None:
    page = COMMAND_LINE.read_text(encoding="utf-8")
    sections = re.findall(r"^## `oddlens ([a-z ]+)`\n\n<!-- options of ([a-z -]+) -->", page, flags=re.MULTILINE)
    assert [title for title, _ in sections] == [name for _, name in sections]
    assert {name for _, name in sections} == set(options_tables.commands())
    assert len(sections) == page.count("\n## `oddlens ")


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@each_page
def test_commands_in_sentences_are_commands_of_ours(page: Path) -> None:
    """Those in blocks run in `test_docs_commands`."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in re.findall(r"`oddlens ([a-z][^`]*)`", text):
        commands = options_tables.commands()
        names = [name for name in commands if f"{line} ".replace("\n", " ").startswith(f"{name} ")]
        assert names or line == "store", line
        for name in names[:1]:
            options = {option for parameter in commands[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line.split("`")[0])) <= options, line


def test_every_public_name_is_read_from_the_package() -> None:
    assert set(public_names()) | {"__version__"} == set(oddlens.__all__)


def test_a_public_name_without_an_entry_is_reported(tmp_path: Path) -> None:
    (tmp_path / "reference/python").mkdir(parents=True)
    (tmp_path / "reference/python/detector.html").write_text('<h2 id="oddlens.Detector">', encoding="utf-8")
    names = {"Detector": "detector.detector", "Verdicts": "detector.verdicts"}
    (problem,) = undocumented_names(tmp_path, names)
    assert problem.startswith("oddlens.Verdicts is public")


def test_a_public_name_without_a_docstring_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("public_names.PACKAGE", tmp_path)
    (tmp_path / "thing.py").write_text('class Thing:\n    size = 1\n\ndef act():\n    """Act."""\n', encoding="utf-8")
    assert not has_docstring("thing", "Thing")
    assert has_docstring("thing", "act")


@pytest.mark.parametrize(
    ("name", "text", "is_loaded"),
    [
        ("a.html", '<script src="https://cdn.example/a.js"></script>', True),
        ("a.html", "<link rel=stylesheet href=//fonts.example/a.css>", True),
        ("a.html", "<img src='http://images.example/a.png'>", True),
        ("a.css", "@import url(https://fonts.example/a.css);", True),
        ("a.html", '<a href="https://pytorch.org">', False),
        ("a.html", '<link rel="canonical" href="https://oddlens.example/">', False),
        ("a.html", '<script src="assets/a.js"></script>', False),
        ("a.css", "src: url(data:font/woff2;base64,AA)", False),
    ],
)
def test_what_a_page_loads_from_outside_is_reported(name: str, text: str, is_loaded: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert bool(list(outside_addresses(tmp_path))) == is_loaded


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = set(
        re.findall(r"[\w/-]+\.md", re.sub(r"^\s*#.*", "", (ROOT / "mkdocs.yml").read_text("utf-8"), flags=re.M))
    )
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("adr/")} <= listed


def test_the_site_makes_pages_of_the_notebook_and_of_files_beside_the_docs() -> None:
    for source in site_hooks.OUTSIDE.values():
        assert (ROOT / source).is_file()
    link = site_hooks.LINK.search("see [speed](../results/speed.md#fitting)")
    assert link is not None
    assert site_hooks.site_link(link, "how-to/deploy.md", "docs/how-to") == "[speed](../results/speed.md#fitting)"
    link = site_hooks.LINK.search("the [example](tests/toy_family.py)")
    assert link is not None
    assert site_hooks.site_link(link, "project/contributing.md", "") == "example"
    link = site_hooks.LINK.search("the [recipes](start/reference-recipes.ipynb)")
    assert link is not None
    assert site_hooks.site_link(link, "index.md", "docs") == "[recipes](start/reference-recipes.md)"
    assert "```python" in site_hooks.notebook_page(NOTEBOOK.read_text(encoding="utf-8"))


def test_the_site_is_built_so_that_a_warning_fails() -> None:
    """With --quiet, MkDocs counts no warnings."""
    (line,) = [line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if "mkdocs build" in line]
    assert "--strict" in line
    assert "--quiet" not in line
    assert " -q" not in line


def test_the_changelog_the_citation_and_the_package_agree_on_the_version() -> None:
    assert f"## [{oddlens.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{oddlens.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"version: {oddlens.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def test_the_notebook_is_valid_and_holds_no_results() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 6
    for cell in code:
        compile("".join(cell["source"]), "cell", "exec")
        assert cell["outputs"] == []


def test_the_notebook_runs(tmp_path: Path) -> None:
    """In a real kernel, with one epoch on few images, which lie in the layouts of MNIST and CIFAR-10."""
    write_named_sets(tmp_path / "DATA")
    notebook: Any = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), as_version=4)
    for name, value in (
        ("DATA = None", f"DATA = {str(tmp_path / 'DATA')!r}"),
        ("EPOCHS = 10", "EPOCHS = 1"),
        ("IMAGES = None", "IMAGES = 50"),
    ):
        assert name in notebook.cells[1].source
        notebook.cells[1].source = notebook.cells[1].source.replace(name, value)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert any("image AUROC" in text for text in printed)
    assert len(figures) == 4
