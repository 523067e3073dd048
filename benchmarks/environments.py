"""The peers' environments: each has its own, made from `peers/requirements/` when it is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cells import ROOT, say

from oddlens.errors import OddlensError

REQUIREMENTS = Path(__file__).parent / "peers/requirements"
VENVS = ROOT / "runs/peers"  # git ignores it


def environment(venvs: Path, name: str) -> Path:
    """Make an environment where it is missing, or was made from other requirements; gives its Python.

    Raises:
        OddlensError: pip could not; its own words are on stderr.
    """
    folder, asked = venvs.resolve() / name, REQUIREMENTS / f"{name}.txt"
    python, made_from = folder / "bin/python", folder / "requirements.txt"
    if made_from.exists() and made_from.read_bytes() == asked.read_bytes():
        return python
    say(f"{name}: installing {' '.join(asked.read_text(encoding='utf-8').split())}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "-r", str(asked)]
    for command in ([sys.executable, "-m", "venv", str(folder)], pip):
        if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
            raise OddlensError(f"the environment of {name} could not be made; pip's words are above this line")
    shutil.copyfile(asked, made_from)  # last: what was cut off is made again
    return python
