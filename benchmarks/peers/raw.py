"""What the peers' scripts share, without oddlens: raw files to arrays, an AUROC, a few options, JSON on stdout."""

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


def options(description: str, epochs: int | None = None, threads: int = 2) -> argparse.ArgumentParser:
    """The options that all scripts have; `epochs` is what the peer trains for without being asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--images", type=int, help="at most so many of each kind: to try whether it runs")
    return parser


def idx(path: Path) -> np.ndarray:
    """An IDX file of bytes, packed or not: two zeros, the type, the number of sides, the sides, the bytes."""
    packed = path.with_name(path.name + ".gz")
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape.astype(int))


def mnist(data: Path) -> np.ndarray:
    """The training digits (60000, 28, 28), uint8."""
    return idx(data / "MNIST" / "raw" / "train-images-idx3-ubyte")


def cifar(data: Path, images: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Airplanes to train on (5000, 3, 32, 32), test images (10000, 3, 32, 32), and which of these are no airplanes."""
    folder = data / "cifar-10-batches-py"
    batches = [unpickled(folder / f"data_batch_{number}") for number in range(1, 6)]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    test, test_labels = unpickled(folder / "test_batch")
    return pixels[labels == AIRPLANE][:images], test[:images], test_labels[:images] != AIRPLANE


def unpickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of one CIFAR-10 batch; of files that one trusts only."""
    with path.open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    return batch[b"data"].reshape(-1, 3, 32, 32), np.array(batch[b"labels"])


def auroc(scores: np.ndarray, odd: np.ndarray) -> float:
    """The chance that an anomaly scores higher than a normal image; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = int(odd.sum())
    return float((ranks[odd].sum() - positive * (positive + 1) / 2) / (positive * (len(odd) - positive)))


class Clock:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self.last = self.last, time.perf_counter()
        return round(self.last - before, 3)


def tell(result: dict[str, object]) -> None:
    """The result as JSON on stdout, also where all else that is printed has been sent elsewhere."""
    print(json.dumps(result), file=sys.__stdout__, flush=True)
