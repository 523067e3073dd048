"""Speed of the store, and memory of its exports: a Markdown table.

    python benchmarks/store_speed.py part.onnx parts.db

The store must not exist yet. Images are random bytes; the rows of the exports are copies of those inspections, made by
the database. Memory is the largest resident set of the exporting process (Linux).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sqlalchemy import insert, select

from oddlens.detector.detector import Detector
from oddlens.io.environment import processor_name
from oddlens.store.database import Database, parse_url
from oddlens.store.inspection import Inspection
from oddlens.store.open import open_store
from oddlens.store.store import Store
from oddlens.store.tables import InspectionRow

COLUMNS = [column for column in InspectionRow.__table__.columns if column.name != "id"]
EXPORTER = (
    "import resource, sys\nfrom oddlens.cli import app\n"
    "try:\n    app(sys.argv[1:])\nexcept SystemExit as done:\n"
    "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n    raise\n"
)


def milliseconds_per_add(store: Store, one: Inspection, images: list[bytes], batch: int) -> float:
    """The mean time of adding an image, so many in one transaction."""
    started = time.perf_counter()
    for start in range(0, len(images), batch):
        store.add_batch([(one, image, None) for image in images[start : start + batch]])
    return (time.perf_counter() - started) / len(images) * 1e3


def copy_rows(url: str, count: int) -> None:
    """Copy inspections until there are so many."""
    database = Database(parse_url(url)[0])
    with open_store(url) as store:
        missing = count - store.counts()["n"]
    while missing > 0:
        with database.write() as session:
            rows = select(*COLUMNS).limit(missing)
            missing -= session.execute(insert(InspectionRow).from_select(COLUMNS, rows)).rowcount  # type: ignore[attr-defined]
    database.close()


def export_seconds_and_megabytes(url: str, path: Path) -> tuple[float, float]:
    """The time of `oddlens store export` in a process of its own, and its memory."""
    command = [sys.executable, "-c", EXPORTER, "store", "export", "--store", url, "-o", str(path)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


def measure(detector_path: Path, url: str, count: int, size: int, rows: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured, and the result."""
    detector, rng = Detector.load(detector_path), np.random.default_rng(0)
    with open_store(url) as store:
        store.add_detector(detector, detector_path)
        one = Inspection(
            name="line 1/camera 2/part.png", anomaly_score=1.5, p_value=0.25, threshold=2.0, verdict="normal",
            detector="part", detector_digest=detector.manifest.digest, runtime=detector.backend.name,
            processor=processor_name(), batch_size=1, part="4711", lot="2026-11", station="3",
        )  # fmt: skip
        for batch in (1, 16):
            images = [rng.bytes(size) for _ in range(count)]
            yield f"add, {batch} at a time", f"{milliseconds_per_add(store, one, images, batch):.1f} ms an image"
    copy_rows(url, rows)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("csv", "parquet", "json"):
            seconds, megabytes = export_seconds_and_megabytes(url, Path(folder) / f"x.{suffix}")
            yield f"export of {rows:,} rows, .{suffix}", f"{seconds:.0f} s, {megabytes:.0f} MB of memory"
    path = parse_url(url)[0].database
    if path and os.path.exists(path):  # noqa: PTH110
        yield f"the SQLite file with {rows:,} rows", f"{os.stat(path).st_size / rows:.0f} bytes a row"  # noqa: PTH116


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the store.", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("detector", type=Path, help="an exported detector")
    parser.add_argument("url", help="the address of a new store")
    parser.add_argument("--images", type=int, default=300, help="images to add in each way")
    parser.add_argument("--bytes", type=int, default=100_000, help="of each image")
    parser.add_argument("--rows", type=int, default=1_000_000, help="inspections to export")
    options = parser.parse_args()
    print(f"{processor_name()}\n\n| what | measured |\n| --- | --- |")
    for what, result in measure(options.detector, options.url, options.images, options.bytes, options.rows):
        print(f"| {what} | {result} |", flush=True)


if __name__ == "__main__":
    main()
