"""What an environment weighs: megabytes and packages without pip, and seconds until an import is done.

    PYTHON benchmarks/peers/installed.py "import torch"

PYTHON is the environment's own; the import's seconds are the median of three fresh processes, after one that warms up.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

IMPORTS = 3
TOOLS = ("pip", "setuptools")  # what every environment starts with


def megabytes(folder: Path) -> float:
    """The files below a folder, without the tools'."""
    sizes = [
        (Path(root) / name).lstat().st_size
        for root, _, names in os.walk(folder)
        for name in names
        if not Path(root).relative_to(folder).as_posix().startswith(TOOLS)
    ]
    return round(sum(sizes) / 1e6, 1)


def seconds(statement: str) -> float:
    """A fresh process that only imports, less one that imports nothing."""
    found = {}
    for words in ("pass", statement):
        times = []
        for _ in range(IMPORTS + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", words], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        found[words] = statistics.median(times[1:])
    return round(found[statement] - found["pass"], 3)


if __name__ == "__main__":
    packages = {each.metadata["Name"].lower() for each in importlib.metadata.distributions()} - set(TOOLS)
    print(
        json.dumps(
            {
                "megabytes": megabytes(Path(sysconfig.get_path("purelib"))),
                "packages": len(packages),
                "seconds_import": seconds(sys.argv[1]),
            }
        )
    )
