"""Size of the detector file of each family, and the memory that scoring with it takes.

    python benchmarks/family_sizes.py --set bottle --data DIR

Each family is fitted to a folder's normal images with its usual settings, but for a single epoch where there are
epochs, which changes no size. Memory is the largest resident set of `oddlens score` of the test images, a process of
its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from cells import cached_json, code_digest
from lot_test import folder_parser
from promises import FAMILIES
from tables import parse, print_table

EPOCHS = ("rotation", "defects", "autoencoder")  # families that have them
FILES = ("part.safetensors", "part.onnx")
# Runs the command line; what the system reports of a child would include the process that started it.
PROGRAM = """
import sys
from oddlens.cli import main
sys.argv[0] = "oddlens"
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def peak_memory(*words: object) -> float:
    """The largest resident set, in bytes, of an oddlens command, which must succeed (Linux)."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"oddlens {words[0]} ended with exit code {done.returncode}: {done.stderr}")
    return 1024.0 * int(done.stderr.split()[-1])


def sizes_of_family(data: Path, family: str) -> dict[str, list[float]]:
    """Bytes of the fitted and of the exported file, and the memory that scoring takes with each."""
    with tempfile.TemporaryDirectory() as folder:
        fitted, exported = (Path(folder, name) for name in FILES)
        epochs = ("--epochs", 1) if family in EPOCHS else ()
        peak_memory("fit", data, "-o", fitted, "--detector", family, *epochs)
        peak_memory("export", fitted, "-o", exported)
        verdicts = Path(folder, "verdicts.csv")
        return {
            "file": [float(file.stat().st_size) for file in (fitted, exported)],
            "memory": [peak_memory("score", file, data / "test", "-o", verdicts) for file in (fitted, exported)],
        }


def rows(name: str, options: argparse.Namespace) -> list[list[str]]:
    """A row for each family."""
    table = []
    for family in options.families:
        path = options.cache / f"sizes-{name}-{family}-{code_digest()}.json"
        sizes = cached_json(path, partial(sizes_of_family, options.data / name, family))
        table.append([name, family, *(f"{size / 1e6:.0f} MB" for size in [*sizes["file"], *sizes["memory"]])])
    return table


def main(words: list[str]) -> int:
    """Print the table."""
    parser = folder_parser(__doc__)
    parser.add_argument("--families", nargs="+", default=FAMILIES, help="families of detectors (all)")
    options = parse(parser, words, needs_data=True)
    columns = ("set", "family", "fitted file", "exported file", "scoring, PyTorch", "scoring, ONNX Runtime")
    return print_table(columns, (row for name in options.set for row in rows(name, options)), [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
