"""The docs say what is so: every command and option, every link, every line of Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from nbclient import NotebookClient

import oddlens
from oddlens.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+|(?<![\w-])-[a-z](?=[`,\s])")


def commands() -> dict[str, Any]:
    """All commands by name; one of a group has the group's name before its own."""
    group: Any = typer.main.get_command(app)
    below = {name: getattr(command, "commands", {"": command}) for name, command in group.commands.items()}
    return {f"{name} {inner}".strip(): command for name, inners in below.items() for inner, command in inners.items()}


def named_command(line: str) -> str:
    """The command that a line begins with, after the program's name."""
    return max((name for name in commands() if f"{line} ".startswith(f"{name} ")), key=len, default="")


def sections() -> dict[str, str]:
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: part for part in parts}


def documented(command: str) -> str:
    (found,) = [text for title, text in sections().items() if title.startswith(f"`oddlens {command}")]
    return found + sections()["Everywhere"]


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_documented_and_no_other(name: str) -> None:
    real = {option for parameter in commands()[name].params for option in parameter.opts if option.startswith("-")}
    table = "\n".join(line for line in documented(name).splitlines() if line.startswith(("|", "## ")))
    named = set(OPTION.findall(table)) - {"--version", "--help", "-h"}
    everywhere = {"--json", "--threads", "--seed"}
    assert real <= named | everywhere
    assert named <= real | everywhere | {"--version", "--help", "-h"}


def test_every_documented_command_exists() -> None:
    titles = [title for title in sections() if title.startswith("`oddlens ")]
    assert {named_command(title.removeprefix("`oddlens ").replace("`", " ")) for title in titles} == set(commands())
    assert len(titles) == len(commands())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_are_commands_of_ours(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:\$ )?oddlens ([a-z].*)", line.split("#")[0])
            if match:
                command = commands()[named_command(match.group(1))]
                known = {option for parameter in command.params for option in parameter.opts}
                assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", match.group(1))) <= known, line


def python_blocks() -> list[tuple[str, str]]:
    blocks = []
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            blocks.append((str(page.relative_to(ROOT)), block))
    return blocks


@pytest.mark.parametrize(("page", "block"), python_blocks())
def test_python_in_the_docs_runs(page: str, block: str, tmp_path: Path) -> None:
    """Each block runs in a folder with the images that the docs speak of."""
    setup = (
        "from oddlens import open_dataset\nfrom pathlib import Path\nfrom PIL import Image\n"
        "data = open_dataset('digits')\n"
        "for folder, images in (('parts/train/good', data.train), ('new', data.test)):\n"
        "    Path(folder).mkdir(parents=True)\n"
        "    for i in range(220): Image.fromarray(images.image(i)[:, :, 0]).save(f'{folder}/{i:03}.png')\n"
    )
    subprocess.run([sys.executable, "-c", setup + block], check=True, cwd=tmp_path, capture_output=True, timeout=400)


def test_the_changelog_the_citation_and_the_package_agree_on_the_version() -> None:
    assert f"## [{oddlens.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'version = "{oddlens.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"version: {oddlens.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def test_the_notebook_is_valid_and_holds_no_results() -> None:
    notebook = json.loads((ROOT / "docs/reference-recipes.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 6
    for cell in code:
        compile("".join(cell["source"]), "cell", "exec")
        assert cell["outputs"] == []


def test_the_notebook_runs(real_data: Path, tmp_path: Path) -> None:
    """In a real kernel, with few images and one epoch."""
    notebook: Any = nbformat.reads((ROOT / "docs/reference-recipes.ipynb").read_text(encoding="utf-8"), as_version=4)
    for name, value in (
        ("DATA = None", f"DATA = {str(real_data)!r}"),
        ("EPOCHS = 10", "EPOCHS = 1"),
        ("IMAGES = None", "IMAGES = 500"),
    ):
        assert name in notebook.cells[1].source
        notebook.cells[1].source = notebook.cells[1].source.replace(name, value)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert any("image AUROC" in text for text in printed)
    assert len(pictures) == 4
