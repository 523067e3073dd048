"""Read CIFAR-10 as it is published: pickled or binary batches, in a folder or in their archive.

The pickles are read by an unpickler that supports three dozen opcodes and only the names that arrays need, which it
resolves to stubs: even NumPy itself is out of reach, because a forged `dtype` state is enough to corrupt memory. A
pickle that refers to anything else is rejected, and nothing in it is run.
"""

from __future__ import annotations

import gzip
import io
import operator
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from oddlens.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
MAX_BATCH_BYTES = 64 * 2**20  # the published batches have 31 million
MAX_ARCHIVE_BYTES = 2**28  # decompressed; the published archives have 186 million

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # (N, 32, 32, 3) and (N,) in 0..9


def find_cifar(root: Path) -> Path | None:
    """Find a folder with all six batches of CIFAR-10, or an archive, in or below `root`; binary ones come first."""
    folders = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "")
    for folder in (root / name for name in folders):
        if any(all((folder / f"{name}{suffix}").is_file() for name in BATCHES) for suffix in (".bin", "")):
            return folder
    archives = (root / name for name in ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"))
    return next((archive for archive in archives if archive.is_file()), None)


def read_cifar(source: Path) -> tuple[Batch, Batch]:
    """Read the training and test images (N, 32, 32, 3) and class numbers (N,) from a folder or archive of `find_cifar`.

    Raises:
        DataError: a batch is missing, damaged, too large, or contains anything but arrays; the message names it.
    """
    batches: dict[str, Batch] = {}
    for name, path, content in _read_archive(source) if source.is_file() else _read_folder(source):
        batches[name] = _read_binary(content, path) if path.endswith(".bin") else _read_pickle(content, path)
    missing = [name for name in BATCHES if name not in batches]
    if missing:
        raise DataError(f"{source}: does not contain {', '.join(missing)}; delete it and download it again")
    images, labels = zip(*(batches[name] for name in BATCHES[:-1]), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), batches[BATCHES[-1]]


def _read_folder(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    binary = all((folder / f"{name}.bin").is_file() for name in BATCHES)
    for name in BATCHES:
        path = folder / (f"{name}.bin" if binary else name)
        try:
            with path.open("rb") as file:
                yield name, str(path), file.read(MAX_BATCH_BYTES + 1)
        except OSError as error:
            raise _damaged_error(str(path), error.strerror or str(error)) from error


def _read_archive(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """Read the batches of an archive one after the other; nothing is extracted to disk."""
    missing = set(BATCHES)
    try:
        with gzip.open(archive) as file, tarfile.open(fileobj=_SizeLimitedStream(file), mode="r|") as members:
            for member in members:
                name = Path(member.name).name.removesuffix(".bin")
                content = members.extractfile(member) if name in missing and member.isreg() else None
                if content is not None:
                    missing.remove(name)
                    yield name, f"{archive}:{member.name}", content.read(MAX_BATCH_BYTES + 1)
    except Exception as error:  # on a damaged header tarfile raises many kinds of errors
        raise _damaged_error(str(archive), str(error) or type(error).__name__) from error


class _SizeLimitedStream(io.RawIOBase):
    """A stream that raises an error once an archive decompresses to more than `MAX_ARCHIVE_BYTES`."""

    def __init__(self, file: gzip.GzipFile) -> None:
        super().__init__()
        self._file = file
        self._remaining = MAX_ARCHIVE_BYTES

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._remaining -= len(content)
        if self._remaining < 0:
            raise ValueError(f"it decompresses to over {MAX_ARCHIVE_BYTES:,} bytes")
        return content


def _read_binary(content: bytes, path: str) -> Batch:
    """Read records of a class number and 3072 bytes."""
    if len(content) > MAX_BATCH_BYTES or not content or len(content) % 3073:
        raise _damaged_error(path, f"{len(content):,} bytes are not a multiple of 3,073, the size of a record")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)
    return _to_batch(records[:, 1:], records[:, 0], path)


def _read_pickle(content: bytes, path: str) -> Batch:
    if len(content) > MAX_BATCH_BYTES:
        raise _damaged_error(path, f"it has over {MAX_BATCH_BYTES:,} bytes")
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
        fields = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        data, labels = fields["data"].array(), np.array([operator.index(label) for label in fields["labels"]])
    except Exception as error:  # a hostile pickle can make the unpickler raise almost anything
        raise _damaged_error(path, f"not a pickle of arrays only: {type(error).__name__}: {error!s:.100}") from error
    return _to_batch(data, labels, path)


def _to_batch(data: npt.NDArray[Any], labels: npt.NDArray[Any], path: str) -> Batch:
    """Validate planes of red, green and blue, (N, 3072), and rearrange them to images (N, 32, 32, 3)."""
    if data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1] or not len(labels):
        raise _damaged_error(path, f"it has data of shape {data.shape} and {labels.size} labels, not (N, 3072) and N")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise _damaged_error(path, f"its labels range from {labels.min()} to {labels.max()}, not from 0 to 9")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels.astype(np.uint8)


def _damaged_error(path: str, reason: str) -> DataError:
    return DataError(
        f"{path}: is not a valid CIFAR-10 file ({' '.join(reason.split())}); delete it and download it again"
    )


class _DtypeStub:
    """Replaces numpy.dtype; it accepts only unsigned bytes, whose byte order need not be set."""

    __slots__ = ()

    def __init__(self, code: object, *_flags: object) -> None:
        if code != "u1":
            raise pickle.UnpicklingError("an array of a type other than bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _ArrayStub:
    """Replaces an array: content, type, shape and order, which are validated only by `array`."""

    __slots__ = ("_state",)

    def __init__(self, *state: object) -> None:
        self._state = state

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, shape, dtype, is_fortran, content = state
        self._state = (content, dtype, shape, "F" if is_fortran else "C")

    def array(self) -> npt.NDArray[np.uint8]:
        content, dtype, shape, order = cast(tuple[Any, ...], self._state)
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 had no bytes
        if not isinstance(dtype, _DtypeStub) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array without bytes")
        return np.frombuffer(content, dtype=np.uint8).reshape([int(side) for side in shape], order=order)


def _create_stub(module: str, name: str) -> object:
    """Resolve a name that arrays need to a stub: a new function every time, so that a pickle cannot modify it."""
    if (module, name) == ("numpy", "ndarray"):
        return name
    if (module, name) == ("numpy", "dtype"):
        return lambda code, *flags: _DtypeStub(code, *flags)
    if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return lambda _type, _shape, _code: _ArrayStub()
    if name == "_frombuffer" and module in ("numpy.core.numeric", "numpy._core.numeric"):
        return lambda content, dtype, shape, order: _ArrayStub(content, dtype, shape, order)
    raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _load_bytearray8(reader: Any) -> None:
    """Like the original, but allocates memory for the bytes that exist, not for those that are declared."""
    (size,) = struct.unpack("<Q", reader.read(8))
    reader.append(reader.read(size))


def _load_setitems(reader: Any) -> None:
    """Like the original, but only for keys that are text: hashing nested tuples can take forever."""
    items = reader.pop_mark()
    if any(type(key) not in (str, bytes) for key in items[::2]):
        raise pickle.UnpicklingError("a key that is not text")
    reader.stack[-1].update(zip(items[::2], items[1::2], strict=True))


_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
    *(pickle.BUILD, pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
    *(pickle.BININT1, pickle.BININT2, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINBYTES, pickle.SHORT_BINBYTES),
)


class _ArrayUnpickler(pickle._Unpickler):  # the implementation in Python, whose opcode table can be replaced
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.BYTEARRAY8[0]: _load_bytearray8,
        pickle.SETITEMS[0]: _load_setitems,
    }

    def find_class(self, module: str, name: str) -> Any:
        return _create_stub(module, name)
