"""IDX, the format of the MNIST family: a few big-endian numbers, then the bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from oddlens.errors import DataError

MAX_BYTES = 2**30

_UNSIGNED_BYTE = 8


def read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """Read an array of `ndim` dimensions of unsigned bytes from an IDX file, plain or gzipped (`.gz`).

    Source: the description at the end of LeCun's MNIST page.

    Raises:
        DataError: the file is damaged, cut short, too long, or holds something else.
    """
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, ndim)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{path}: is not a whole IDX file ({error}); delete it and download it again") from error


def _read(file: BinaryIO, ndim: int) -> npt.NDArray[np.uint8]:
    zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
    if zeros != 0 or kind != _UNSIGNED_BYTE or dimensions != ndim:
        raise ValueError(f"it does not begin as one of {ndim} dimensions of bytes")
    shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"it announces {size:,} bytes, over the limit of {MAX_BYTES:,}")
    content = file.read(size + 1)  # to its end: gzip checks its sum there
    if len(content) != size:
        raise ValueError(f"it announces {size:,} bytes and has {'more' if len(content) > size else len(content)}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
