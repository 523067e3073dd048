"""How long one image takes, from its file to its verdict, and what comes before the first.

    python benchmarks/latency.py
    python benchmarks/latency.py --bare DIR/bin/python --threads 2

`--bare` is the Python of an environment with the core install alone (`python -m venv DIR && DIR/bin/pip install .`);
what runs there are subprocesses, which never see this environment. Runtimes that it lacks are timed in this one. The
autoencoders are the seeds' and hardly trained: how long they take does not depend on their weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cells import commit, machine, say
from PIL import Image
from tables import as_typed, markdown

from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.detector.detector import Detector
from oddlens.detector.export import export

RUNTIMES = {
    "onnxruntime fp32": RuntimeSettings(engine="onnxruntime"),
    "openvino fp32": RuntimeSettings(engine="openvino"),
    "openvino bf16": RuntimeSettings(engine="openvino", precision="bf16"),
}
WARM_UP = 20
IMPORT = "import time; t = time.perf_counter(); import oddlens; print(1e3 * (time.perf_counter() - t))"
WARM = """
import json, sys, time
from oddlens.detector import Detector

detector, took = Detector.load(sys.argv[1]), []
for _ in range(int(sys.argv[3])):
    started = time.perf_counter()
    detector.predict([sys.argv[2]]).verdict
    took.append(1e3 * (time.perf_counter() - started))
print(json.dumps(took))
"""
SIZE = """
import sysconfig
from pathlib import Path

tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
folder = Path(sysconfig.get_path("purelib"))
files = [path for path in folder.rglob("*") if path.is_file()]
print(sum(path.stat().st_size for path in files if not path.relative_to(folder).parts[0].startswith(tools)))
"""


class Limit(NamedTuple):
    """What is asked for: the least, and the aim."""

    floor: str
    aim: str


class Sized(NamedTuple):
    """A size of pictures, the seed's network for it, and what is asked of one image."""

    side: int
    channels: int
    model: AutoencoderSettings
    limit: Limit


SIZES = (
    Sized(28, 1, AutoencoderSettings(architecture="pooling", widths=(32, 64)), Limit("3 ms", "1 ms")),
    Sized(256, 3, AutoencoderSettings(), Limit("40 ms", "15 ms")),
)


def main() -> None:
    """Time everything and print the table."""
    options = parser().parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    bare = Path(options.bare)
    rows = [
        row("`import oddlens`", [float(run(bare, IMPORT)) for _ in range(options.repeats)], Limit("200 ms", "50 ms"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            image, parts = made(size, Path(folder))
            if size.side == 28:
                cold = [seconds(bare, parts["onnxruntime fp32"], image) for _ in range(options.repeats)]
                rows.append(row("`oddlens score`, one image of 28 px, cold", cold, Limit("1200 ms", "700 ms")))
            for name, part in parts.items():
                say(f"{name}, {size.side} px")
                python = bare if "onnxruntime" in name else Path(sys.executable)
                took = json.loads(run(python, WARM, part, image, WARM_UP + options.calls))[WARM_UP:]
                rows.append(row(f"file to verdict, {size.side} px, {name}", took, size.limit))
    megabytes = float(run(bare, SIZE)) / 1e6
    rows.append(("installed, without pip", f"{megabytes:.0f} MB", "", "220 MB", "180 MB"))
    print(markdown(("what", "median", "95th percentile", "floor", "aim"), rows))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"\n`{as_typed(sys.argv)}`, {machine()}{load}, commit {commit()}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description="Cold start, import, and one image's latency.")
    made.add_argument("--bare", default=sys.executable, help="Python of an environment with the core install alone")
    made.add_argument("--repeats", type=int, default=15, help="processes started for each cold figure (15)")
    made.add_argument("--calls", type=int, default=200, help="calls for each warm figure (200)")
    made.add_argument("--threads", type=int, help="processor threads")
    return made


def made(size: Sized, folder: Path) -> tuple[Path, dict[str, Path]]:
    """An image file, and a detector file for each runtime, by its name."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, size.side, size.side, size.channels), dtype=np.uint8)
    image = folder / f"{size.side}.png"
    Image.fromarray(pixels[0].squeeze()).save(image)
    trained = Detector(size.model, size=size.side, training=TrainingSettings(epochs=1)).fit(pixels[:40])
    parts = {}
    for name, runtime in RUNTIMES.items():
        parts[name] = folder / f"{size.side} {name}.onnx"
        export(trained, parts[name])
        Detector.load(parts[name]).calibrate(pixels[40:], runtime=runtime).save(parts[name])
    return image, parts


def run(python: Path, program: str, *arguments: object) -> str:
    """What a program prints in another process, which sees the packages of its own environment alone."""
    command = [str(python), "-c", program, *map(str, arguments)]
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=hidden).stdout


def seconds(python: Path, part: Path, image: Path) -> float:
    """Milliseconds that the command takes for one image, from the start of its process to its end."""
    started = time.perf_counter()
    run(python, "from oddlens.cli import main; main()", "score", part, image)
    return 1e3 * (time.perf_counter() - started)


def row(what: str, took: list[float], limit: Limit) -> tuple[str, ...]:
    """A line of the table from milliseconds."""
    late = statistics.quantiles(took, n=20)[-1]
    return (what, f"{statistics.median(took):.2f} ms", f"{late:.2f} ms", *limit)


if __name__ == "__main__":
    main()
