"""Memory and speed of `oddlens score` over many small files: a Markdown table.

    oddlens fit mnist --data DIR --detector autoencoder --epochs 1 -o runs/streaming/part.safetensors
    oddlens export runs/streaming/part.safetensors -o runs/streaming/part.onnx
    python benchmarks/streaming.py runs/streaming/part.onnx --data DIR

The files are MNIST's test images, repeated, with a running number in the first pixels to make them distinct. They are
written once and kept. Memory is the resident set of the process (VmRSS in /proc, Linux), sampled four times a second.
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

SETTLED = 10_000  # images after which memory should be constant
FOLDER = 10_000  # files per folder


class Sample(NamedTuple):
    """State of the process at one moment."""

    seconds: float
    megabytes: float
    images: int


def make_images(folder: Path, count: int, data: Path | None) -> None:
    """Write the missing files."""
    digits = open_dataset("mnist", data_dir=data).test
    for i in range(count):
        path = folder / f"{i // FOLDER:03}" / f"{i:06}.png"
        if i % FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"{i} of {count} files", file=sys.stderr)
        if not path.exists():
            image = digits.image(i % len(digits))[..., 0].copy()
            image[0, :4] = [i >> shift & 255 for shift in (0, 8, 16, 24)]
            Image.fromarray(image).save(path, compress_level=1)


def resident(process: int) -> float:
    """Return the resident memory of a process in megabytes; 0 after its end."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def sample_memory(command: list[str], output: Path, count: int) -> list[Sample]:
    """Run a command, and sample its memory and its journal until it ends."""
    started, samples, size = time.perf_counter(), [], 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            scores = journal_path(output).read_bytes().count(b",")  # a comma between two scores, about one per image
        except FileNotFoundError:
            scores = count if size else 0
        size = max(size, scores)
        samples.append(Sample(time.perf_counter() - started, resident(process.pid), size))
        time.sleep(0.25)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: failed with exit code {process.returncode}; see its output above")
    return samples


def main() -> None:
    """Parse the options, write the files, score them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--data", type=Path, help="folder with MNIST; also $ODDLENS_DATA")
    parser.add_argument("--images", type=Path, default=Path("runs/streaming/images"), help="folder of the files")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", nargs="+", default=["csv", "jsonl", "parquet"])
    options = parser.parse_args()
    images = options.images / str(options.count)
    make_images(images, options.count, options.data)
    print("| output | images/s | MB after 10,000 images | most MB after that | growth, MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for suffix in options.format:
        output = options.images / f"verdicts.{suffix}"
        arguments = [str(options.detector), str(images), "-o", str(output), "--threads", str(options.threads)]
        samples = sample_memory([sys.executable, "-m", "oddlens", "score", *arguments], output, options.count)
        later = [sample for sample in samples if sample.images >= SETTLED]
        start = next(sample.seconds for sample in samples if sample.images)
        speed, peak = options.count / (samples[-1].seconds - start), max(sample.megabytes for sample in later)
        print(
            f"| {suffix} | {speed:.0f} | {later[0].megabytes:.0f} | {peak:.0f} | {peak - later[0].megabytes:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
