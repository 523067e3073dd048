"""Small data sets on disk, in users' layouts, for the tests of data sets."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from oddlens.config.base import InputSpec
from oddlens.data.image_set import ImageSet
from oddlens.data.sources.cifar import BATCHES

Array = npt.NDArray[Any]

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
GREY8 = InputSpec(height=8, width=8, channels=1)


def picture(path: Path, level: int = 100, size: tuple[int, int] = (8, 8), dtype: Any = np.uint8) -> Path:
    """A file with one grey image of size (height, width), all of one level but for its first pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, level, dtype=dtype)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, defect: tuple[slice, slice]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[defect] = 255
    Image.fromarray(pixels).save(path)


def mvtec(folder: Path) -> Path:
    """MVTec's layout: 3 to learn from, 2 good, 2 scratched with masks, 1 bent without."""
    for i in range(3):
        picture(folder / f"train/good/{i:03}.png", 100 + i)
    for i in range(2):
        picture(folder / f"test/good/{i:03}.png", 120 + i)
        picture(folder / f"test/scratch/{i:03}.png", 140 + i)
        mask(folder / f"ground_truth/scratch/{i:03}_mask.png", (slice(i, i + 2), slice(0, 5)))
    picture(folder / "test/bent/000.png", 160)
    (folder / "license.txt").write_text("CC")
    return folder


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_idx(folder: Path, packed: bool = False, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """The four files of MNIST with 20 and 10 images; every class is among them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for count in (20, 10):
        arrays += [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count).astype(np.uint8) % 10]
    for name, array in zip(IDX, arrays, strict=True):
        content = idx_bytes(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    return arrays[0], arrays[1], arrays[2], arrays[3]


def published_pickle(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """A CIFAR batch as it was pickled by Python 2 with protocol 2 and the module names of old NumPy."""
    rows, columns = data.shape
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        + (b"(K\x01" + shape + b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R")
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + (b"\x89T" + struct.pack("<I", data.size) + data.tobytes() + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x01(U\x0bbatch_labelU\x0bof a test\n.U\x06labels" + numbers + b"U\x04data" + array + b"u."


def small_cifar(seed: int = 0, rows: int = 6) -> dict[str, tuple[npt.NDArray[np.uint8], list[int]]]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.integers(0, 256, (rows, 3072), dtype=np.uint8), rng.integers(0, 10, rows).tolist())
        for name in BATCHES
    }


def write_cifar(folder: Path, batches: dict[str, tuple[npt.NDArray[np.uint8], list[int]]], kind: str) -> Path:
    folder.mkdir(parents=True)
    for name, (data, labels) in batches.items():
        if kind == "binary":
            records = np.hstack([np.array(labels, dtype=np.uint8)[:, None], data])
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif kind == "published":
            (folder / name).write_bytes(published_pickle(data, labels))
        else:
            (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=int(kind)))
    return folder


def pixels_of(images: ImageSet) -> Array:
    return np.stack([images.image(i) for i in range(len(images))])


def levels(images: ImageSet) -> list[int]:
    """The grey level of each picture made by `picture`."""
    return [int(images.image(i)[1, 1, 0]) for i in range(len(images))]
