"""Size of an environment: megabytes and packages without pip, and seconds of an import.

    PYTHON benchmarks/peers/installed.py "import torch"

PYTHON is that of the environment. The seconds are the median of three new processes, after a warm-up process.
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
TOOLS = ("pip", "setuptools")  # part of every environment


def megabytes(folder: Path) -> float:
    """Return the size of the files below a folder, without pip and setuptools."""
    sizes = [
        (Path(root) / name).lstat().st_size
        for root, _, names in os.walk(folder)
        for name in names
        if not Path(root).relative_to(folder).as_posix().startswith(TOOLS)
    ]
    return round(sum(sizes) / 1e6, 1)


def seconds(statement: str) -> float:
    """Return the time of a process that executes the import, minus that of one that does not."""
    medians = {}
    for words in ("pass", statement):
        times = []
        for _ in range(IMPORTS + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", words], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        medians[words] = statistics.median(times[1:])
    return round(medians[statement] - medians["pass"], 3)


if __name__ == "__main__":
    packages = {package.metadata["Name"].lower() for package in importlib.metadata.distributions()} - set(TOOLS)
    print(
        json.dumps(
            {
                "megabytes": megabytes(Path(sysconfig.get_path("purelib"))),
                "packages": len(packages),
                "seconds_import": seconds(sys.argv[1]),
            }
        )
    )
