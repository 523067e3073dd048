"""Latency of one image, from its file to its verdict, and time to the first verdict.

    python benchmarks/latency.py
    python benchmarks/latency.py --bare DIR/bin/python --threads 2

`--bare` is the Python of an environment with the core install only (`python -m venv DIR && DIR/bin/pip install .`); it
runs as a subprocess. Runtimes that it lacks are timed in the current environment. The autoencoders are those of the
reference recipes, trained for one epoch: latency does not depend on the weights.
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
from cells import say
from environments import megabytes
from PIL import Image
from tables import markdown, typed_command, where_measured

from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.detector.detector import Detector

RUNTIMES = {
    "onnxruntime fp32": RuntimeSettings(engine="onnxruntime"),
    "openvino fp32": RuntimeSettings(engine="openvino"),
    "openvino bf16": RuntimeSettings(engine="openvino", precision="bf16"),
}
WARM_UP = 20
IMPORT = "import time; t = time.perf_counter(); import oddlens; print(1e3 * (time.perf_counter() - t))"
WARM = """
import json, os, sys, time
from oddlens import Detector

threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or None
detector, times = Detector.load(sys.argv[1], threads=threads), []
for _ in range(int(sys.argv[3])):
    started = time.perf_counter()
    detector.predict([sys.argv[2]]).verdict
    times.append(1e3 * (time.perf_counter() - started))
print(json.dumps(times))
"""


class Sized(NamedTuple):
    """An image size, and the reference recipe's network for it."""

    side: int
    channels: int
    model: AutoencoderSettings


SIZES = (
    Sized(28, 1, AutoencoderSettings(architecture="pooling", widths=(32, 64))),
    Sized(256, 3, AutoencoderSettings()),
)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Cold start, import, and one image's latency.")
    parser.add_argument("--bare", default=sys.executable, help="Python of an environment with the core install only")
    parser.add_argument("--repeats", type=int, default=15, help="processes per cold start (15)")
    parser.add_argument("--calls", type=int, default=200, help="calls per warm latency (200)")
    parser.add_argument("--threads", type=int, help="processor threads")
    options = parser.parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    bare = Path(options.bare)
    rows = [row("`import oddlens`", [float(run(bare, IMPORT)) for _ in range(options.repeats)])]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            image, parts = make_files(size, Path(folder))
            if size.side == 28:
                cold = [seconds(bare, parts["onnxruntime fp32"], image) for _ in range(options.repeats)]
                rows.append(row("`oddlens score`, one image of 28 px, cold", cold))
            for name, part in parts.items():
                say(f"{name}, {size.side} px")
                python = bare if "onnxruntime" in name else Path(sys.executable)
                times = json.loads(run(python, WARM, part, image, WARM_UP + options.calls))[WARM_UP:]
                rows.append(row(f"file to verdict, {size.side} px, {name}", times))
    rows.append(("installed, without pip", f"{megabytes(bare):.0f} MB", ""))
    print(markdown(("what", "median", "95th percentile"), rows))
    print(f"\n`{typed_command(sys.argv)}`, {where_measured()}")


def make_files(size: Sized, folder: Path) -> tuple[Path, dict[str, Path]]:
    """Write an image file and a detector file per runtime; return the paths, the latter by runtime."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, size.side, size.side, size.channels), dtype=np.uint8)
    image = folder / f"{size.side}.png"
    Image.fromarray(pixels[0].squeeze()).save(image)
    detector = Detector(size.model, size=size.side, training=TrainingSettings(epochs=1)).fit(pixels[:40])
    parts = {}
    for name, runtime in RUNTIMES.items():
        parts[name] = folder / f"{size.side} {name}.onnx"
        detector.export(parts[name])
        Detector.load(parts[name]).calibrate(pixels[40:], runtime=runtime).save(parts[name])
    return image, parts


def run(python: Path, program: str, *arguments: object) -> str:
    """Return the stdout of a program run by another Python, without the current PYTHONPATH."""
    command = [str(python), "-c", program, *map(str, arguments)]
    hidden = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=hidden).stdout


def seconds(python: Path, part: Path, image: Path) -> float:
    """Return the milliseconds of a whole `oddlens score` process for one image."""
    started = time.perf_counter()
    run(python, "from oddlens.cli import main; main()", "score", part, image)
    return 1e3 * (time.perf_counter() - started)


def row(what: str, times: list[float]) -> tuple[str, ...]:
    """Return a row of the table from milliseconds."""
    late = statistics.quantiles(times, n=20)[-1]
    return (what, f"{statistics.median(times):.2f} ms", f"{late:.2f} ms")


if __name__ == "__main__":
    main()
