"""Virtual environments of the peers, created from `peers/requirements/` when missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cells import ROOT, say

from oddlens.errors import OddlensError

REQUIREMENTS = Path(__file__).parent / "peers/requirements"
VENVS = ROOT / "runs/peers"  # ignored by git
TOOLS = ("pip", "setuptools")  # part of every environment


def environment(name: str) -> Path:
    """Return the Python of an environment; create it if it is missing or its requirements have changed.

    Raises:
        OddlensError: pip failed; its output is on stderr.
    """
    folder, requirements = VENVS / name, REQUIREMENTS / f"{name}.txt"
    python, installed = folder / "bin/python", folder / "requirements.txt"
    if installed.exists() and installed.read_bytes() == requirements.read_bytes():
        return python
    say(f"{name}: installing {' '.join(requirements.read_text(encoding='utf-8').split())}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    for command in ([sys.executable, "-m", "venv", str(folder)], pip):
        if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
            raise OddlensError(f"the environment {name} could not be created; see the output of pip above")
    shutil.copyfile(requirements, installed)  # last, so that an interrupted installation is repeated
    return python


def megabytes(python: Path) -> float:
    """Return the megabytes of the packages of an environment, without pip and setuptools."""
    (folder,) = python.parent.parent.glob("lib/python*/site-packages")
    sizes = (path.lstat().st_size for path in folder.rglob("*") if not str(path.relative_to(folder)).startswith(TOOLS))
    return sum(sizes) / 1e6
