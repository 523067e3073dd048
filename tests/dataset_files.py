"""Write small data sets to disk in users' layouts, for the tests of data sources."""

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


def write_image(path: Path, level: int = 100, size: tuple[int, int] = (8, 8), dtype: Any = np.uint8) -> Path:
    """Write a grey image of size (height, width) in which all pixels but the first, which is 0, have one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, level, dtype=dtype)
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, defect: tuple[slice, slice]) -> None:
    """Write an 8 x 8 mask in which the defect is white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[defect] = 255
    Image.fromarray(pixels).save(path)


def write_mvtec(folder: Path) -> Path:
    """Write MVTec's layout: 3 training images; 2 good, 2 scratched with masks and 1 bent without for testing."""
    for i in range(3):
        write_image(folder / f"train/good/{i:03}.png", 100 + i)
    for i in range(2):
        write_image(folder / f"test/good/{i:03}.png", 120 + i)
        write_image(folder / f"test/scratch/{i:03}.png", 140 + i)
        write_mask(folder / f"ground_truth/scratch/{i:03}_mask.png", (slice(i, i + 2), slice(0, 5)))
    write_image(folder / "test/bent/000.png", 160)
    (folder / "license.txt").write_text("CC")
    return folder


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_files(folder: Path, gzipped: bool = False, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Write the four files of MNIST with 20 training and 10 test images of all classes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for count in (20, 10):
        arrays += [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count).astype(np.uint8) % 10]
    for name, array in zip(IDX, arrays, strict=True):
        content = idx_bytes(array)
        (folder / f"{name}{'.gz' if gzipped else ''}").write_bytes(gzip.compress(content) if gzipped else content)
    return arrays[0], arrays[1], arrays[2], arrays[3]


def python2_pickle(data: npt.NDArray[np.uint8], labels: list[int]) -> bytes:
    """A CIFAR batch as Python 2 pickled it, with protocol 2 and the module names of old NumPy."""
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


def random_cifar_batches(seed: int = 0, rows: int = 6) -> dict[str, tuple[npt.NDArray[np.uint8], list[int]]]:
    """The data (rows, 3072) and labels of all six batches."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.integers(0, 256, (rows, 3072), dtype=np.uint8), rng.integers(0, 10, rows).tolist())
        for name in BATCHES
    }


def write_cifar(folder: Path, batches: dict[str, tuple[npt.NDArray[np.uint8], list[int]]], kind: str) -> Path:
    """Write batches as "binary", as "published" pickles, or with a pickle protocol."""
    folder.mkdir(parents=True)
    for name, (data, labels) in batches.items():
        if kind == "binary":
            records = np.hstack([np.array(labels, dtype=np.uint8)[:, None], data])
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        elif kind == "published":
            (folder / name).write_bytes(python2_pickle(data, labels))
        else:
            (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=int(kind)))
    return folder


def stack_images(images: ImageSet) -> Array:
    """All images of a set, (N, H, W, C)."""
    return np.stack([images.image(i) for i in range(len(images))])


def grey_levels(images: ImageSet) -> list[int]:
    """The grey levels of images written by `write_image`."""
    return [int(images.image(i)[1, 1, 0]) for i in range(len(images))]
