"""Read IDX files, the format of the MNIST family: a header of big-endian integers, then the bytes of an array."""

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

MAX_BYTES = 2**30  # size of an array

_UNSIGNED_BYTE = 8  # type code


def read_idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """Read an array of unsigned bytes with `ndim` dimensions from an IDX file, plain or gzipped (`.gz`).

    Source: the description of the format at the end of LeCun's MNIST page.

    Raises:
        DataError: the file is damaged, truncated, too long, or of another format.
    """
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, ndim)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{path}: is not a valid IDX file ({error}); delete it and download it again") from error


def _read(file: BinaryIO, ndim: int) -> npt.NDArray[np.uint8]:
    zeros, type_code, dimensions = struct.unpack(">HBB", file.read(4))
    if zeros != 0 or type_code != _UNSIGNED_BYTE or dimensions != ndim:
        raise ValueError(f"its header is not that of an array of bytes with {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"its header declares {size:,} bytes, over the limit of {MAX_BYTES:,}")
    content = file.read(size + 1)  # to the end, where gzip verifies its checksum
    if len(content) != size:
        raise ValueError(
            f"its header declares {size:,} bytes, but it has {'more' if len(content) > size else len(content)}"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
