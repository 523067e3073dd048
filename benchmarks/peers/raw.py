"""Shared by the peers' scripts, independent of oddlens: reading raw files, AUROC, options, JSON output."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np

AIRPLANE = 0  # its label in CIFAR-10


def make_parser(description: str, epochs: int | None = None, threads: int = 2) -> argparse.ArgumentParser:
    """Return a parser of the shared options; `epochs` is the peer's default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--images", type=int, help="maximum number of images per split, for a smoke test")
    return parser


def idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes, gzipped or not: two zeros, type, number of dimensions, shape, data."""
    packed = path.with_name(path.name + ".gz")
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape.astype(int))


def mnist(data: Path) -> np.ndarray:
    """Return the training digits (60000, 28, 28), uint8."""
    return idx(data / "MNIST" / "raw" / "train-images-idx3-ubyte")


def cifar(data: Path, images: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training airplanes (5000, 3, 32, 32), test images (10000, 3, 32, 32), and which of these are anomalous."""
    folder = data / "cifar-10-batches-py"
    batches = [read_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    test, test_labels = read_batch(folder / "test_batch")
    return pixels[labels == AIRPLANE][:images], test[:images], test_labels[:images] != AIRPLANE


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels and labels of one CIFAR-10 batch; for trusted files only, since it unpickles."""
    with path.open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    return batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[b"labels"])


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the AUROC: the probability that an anomaly scores higher than a normal image; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = int(anomalous.sum())
    return float((ranks[anomalous].sum() - positive * (positive + 1) / 2) / (positive * (len(anomalous) - positive)))


class Clock:
    """Measures the seconds of successive steps."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.last = self.last, time.perf_counter()
        return round(self.last - before, 3)


def print_json(result: dict[str, object]) -> None:
    """Print the result as JSON to the original stdout, even if stdout is redirected."""
    print(json.dumps(result), file=sys.__stdout__, flush=True)
