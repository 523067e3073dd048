"""What is built, and when: the core is pure Python, and `make setup` builds the kernels where there is a compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("make", "sh", "test", "touch")  # all that setting up needs beside Python and a compiler
PLUGIN = "./plugins/oddlens-kernels"


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_a_wheel_of_the_core_has_no_compiled_code(tmp_path: Path) -> None:
    program = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    name = done.stdout.split()[-1]
    assert name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        files = wheel.namelist()
        assert [file for file in files if Path(file).suffix in (".so", ".c", ".h", ".o", ".a", ".pyd", ".dylib")] == []
        assert [file for file in files if wheel.read(file)[:4] == b"\x7fELF"] == []
        assert not [file for file in files if file.startswith("oddlens_kernels")]


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_a_source_distribution_has_every_file_of_the_package_and_what_a_release_needs(tmp_path: Path) -> None:
    program = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    name = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        files = {member.partition("/")[2] for member in archive.getnames()}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "src").rglob("*") if path.is_file()}
    assert {path for path in package if "__pycache__" not in path} - files == set()
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "examples/score.js"} - files == set()


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with all programs that `make setup` may call, but no compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in TOOLS:
        if path := shutil.which(name):
            (folder / name).symlink_to(path)
    return folder


def set_up(tmp_path: Path, tools: Path, *, build_fails: bool = False) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `make setup` with an environment whose Python only records how it is called; gives that, too."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    failure = f'case "$*" in *{PLUGIN}*) echo "no such header" >&2; exit 1;; esac\n' if build_fails else ""
    python.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{failure}')
    python.chmod(0o755)
    command = [str(tools / "make"), "-C", str(ROOT), "setup", f"VENV={tmp_path / 'venv'}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**environment, "PATH": str(tools)})
    return done, (tmp_path / "calls").read_text()


needs_make = pytest.mark.skipif(
    shutil.which("make") is None or not (ROOT / "Makefile").exists(), reason="needs make and a checkout"
)


@needs_make
def test_without_a_compiler_the_set_up_says_so_in_one_line_and_builds_nothing(tmp_path: Path, tools: Path) -> None:
    done, calls = set_up(tmp_path, tools)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "oddlens-kernels" in line]
    assert lines == ["oddlens-kernels is not installed, since there is no C compiler (cc); everything works without it"]
    assert "-e .[train" in calls
    assert PLUGIN not in calls


@needs_make
def test_with_a_compiler_the_set_up_builds_the_kernels_once(tmp_path: Path, tools: Path) -> None:
    (tools / "cc").symlink_to("/bin/sh")  # it is looked for here, and run by the build alone
    done, calls = set_up(tmp_path, tools)
    assert done.returncode == 0, done.stderr
    assert calls.count(PLUGIN) == 1
    assert set_up(tmp_path, tools)[1] == calls


@needs_make
def test_kernels_that_cannot_be_built_do_not_stop_the_set_up(tmp_path: Path, tools: Path) -> None:
    (tools / "cc").symlink_to("/bin/sh")
    done, calls = set_up(tmp_path, tools, build_fails=True)
    log = tmp_path / "venv" / "kernels.log"
    assert done.returncode == 0, done.stderr
    assert f"oddlens-kernels cannot be built here ({log} says why); everything works without it" in done.stdout
    assert log.read_text() == "no such header\n"
    assert set_up(tmp_path, tools, build_fails=True)[1].count(PLUGIN) == 2 * calls.count(PLUGIN), "is not tried again"
