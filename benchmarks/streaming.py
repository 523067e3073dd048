"""Memory and speed of `oddlens score` over many small files: a Markdown table.

    oddlens fit mnist --data DIR --detector autoencoder --epochs 1 -o runs/streaming/part.safetensors
    oddlens export runs/streaming/part.safetensors -o runs/streaming/part.onnx
    python benchmarks/streaming.py runs/streaming/part.onnx --data DIR

The files are MNIST's test images again and again, each with its own number in its first pixels. They are made once and
kept. Memory is what the process holds of the machine's (VmRSS in /proc, Linux), sampled four times a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from oddlens.data.open import open_dataset
from oddlens.io.journal import journal_path

SETTLED = 10_000  # images after which memory should stay as it is
FOLDER = 10_000  # files in one


class Sample(NamedTuple):
    """The process at one moment."""

    seconds: float
    megabytes: float
    images: int


def make_images(folder: Path, count: int, data: Path | None) -> None:
    """Write the files that are not there yet."""
    digits = open_dataset("mnist", data_dir=data).test
    for i in range(count):
        path = folder / f"{i // FOLDER:03}" / f"{i:06}.png"
        if i % FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"{i} of {count} files", file=sys.stderr)
        if not path.exists():
            picture = digits.image(i % len(digits))[..., 0].copy()
            picture[0, :4] = [i >> shift & 255 for shift in (0, 8, 16, 24)]
            Image.fromarray(picture).save(path, compress_level=1)


def resident(process: int) -> float:
    """Megabytes that a process holds in memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def watched(command: list[str], output: Path, count: int) -> list[Sample]:
    """Run a command to its end, and look at it and at its journal now and then."""
    started, samples, size = time.perf_counter(), [], 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            scores = journal_path(output).read_bytes().count(b",")  # one between two scores, about one an image
        except FileNotFoundError:
            scores = count if size else 0
        size = max(size, scores)
        samples.append(Sample(time.perf_counter() - started, resident(process.pid), size))
        time.sleep(0.25)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with exit code {process.returncode}")
    return samples


def main() -> None:
    """Parse, make, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--data", type=Path, help="folder with MNIST; also $ODDLENS_DATA")
    parser.add_argument("--images", type=Path, default=Path("runs/streaming/images"), help="where the files are kept")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", nargs="+", default=["csv", "jsonl", "parquet"])
    asked = parser.parse_args()
    images = asked.images / str(asked.count)
    make_images(images, asked.count, asked.data)
    print("| output | images/s | MB after 10,000 images | most MB after that | growth, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for suffix in asked.format:
        output = asked.images / f"verdicts.{suffix}"
        given = [str(asked.detector), str(images), "-o", str(output), "--threads", str(asked.threads)]
        samples = watched([sys.executable, "-m", "oddlens", "score", *given], output, asked.count)
        later = [sample for sample in samples if sample.images >= SETTLED]
        begun = next(sample.seconds for sample in samples if sample.images)
        speed, most = asked.count / (samples[-1].seconds - begun), max(sample.megabytes for sample in later)
        print(
            f"| {suffix} | {speed:.0f} | {later[0].megabytes:.0f} | {most:.0f} | {most - later[0].megabytes:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
