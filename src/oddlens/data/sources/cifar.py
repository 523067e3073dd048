"""CIFAR-10 as it is published: pickled or binary batches, in a folder or still in their archive.

The pickles are read by an unpickler that knows three dozen instructions and the names that arrays need,
for which it hands out stand-ins: not even NumPy itself is within a pickle's reach, because a forged
`dtype` state would be enough to corrupt memory. Whatever asks for anything else is refused, not run.
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
MAX_BYTES = 64 * 2**20  # a batch; the published ones have 31 million
MAX_ARCHIVE = 2**28  # an archive, unpacked; the published ones have 186 million

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]  # (N, 32, 32, 3) and (N,) in 0..9


def find_cifar(place: Path) -> Path | None:
    """A folder or an archive below `place`, or `place` itself, with all six batches of CIFAR-10; binary first."""
    folders = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "")
    for folder in (place / name for name in folders):
        if any(all((folder / f"{name}{suffix}").is_file() for name in BATCHES) for suffix in (".bin", "")):
            return folder
    archives = (place / name for name in ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"))
    return next((archive for archive in archives if archive.is_file()), None)


def read_cifar(source: Path) -> tuple[Batch, Batch]:
    """Training and test images (N, 32, 32, 3) and class numbers, from what `find_cifar` found.

    Raises:
        DataError: a batch is missing, damaged, too large, or holds anything but arrays; it is named.
    """
    found: dict[str, Batch] = {}
    for name, place, content in _from_archive(source) if source.is_file() else _from_folder(source):
        found[name] = _read_binary(content, place) if place.endswith(".bin") else _read_pickle(content, place)
    missing = [name for name in BATCHES if name not in found]
    if missing:
        raise DataError(f"{source}: lacks {', '.join(missing)}; delete it and download it again")
    images, labels = zip(*(found[name] for name in BATCHES[:-1]), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), found[BATCHES[-1]]


def _from_folder(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    binary = all((folder / f"{name}.bin").is_file() for name in BATCHES)
    for name in BATCHES:
        path = folder / (f"{name}.bin" if binary else name)
        try:
            with path.open("rb") as file:
                yield name, str(path), file.read(MAX_BYTES + 1)
        except OSError as error:
            raise _damaged(str(path), error.strerror or str(error)) from error


def _from_archive(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """The batches of an archive, read one after the other; nothing is unpacked to disk."""
    wanted = set(BATCHES)
    try:
        with gzip.open(archive) as file, tarfile.open(fileobj=_Limited(file), mode="r|") as members:
            for member in members:
                name = Path(member.name).name.removesuffix(".bin")
                content = members.extractfile(member) if name in wanted and member.isreg() else None
                if content is not None:
                    wanted.remove(name)
                    yield name, f"{archive}:{member.name}", content.read(MAX_BYTES + 1)
    except Exception as error:  # tarfile lets many kinds of error through where a header is damaged
        raise _damaged(str(archive), str(error) or type(error).__name__) from error


class _Limited(io.RawIOBase):
    """A stream that ends in an error where an archive would unpack to too much."""

    def __init__(self, file: gzip.GzipFile) -> None:
        super().__init__()
        self._file = file
        self._left = MAX_ARCHIVE

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to over {MAX_ARCHIVE:,} bytes")
        return content


def _read_binary(content: bytes, place: str) -> Batch:
    """Records of a class number and 3072 bytes."""
    if len(content) > MAX_BYTES or not content or len(content) % 3073:
        raise _damaged(place, f"{len(content):,} bytes are not whole records of 3,073")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073)
    return _checked(records[:, 1:], records[:, 0], place)


def _read_pickle(content: bytes, place: str) -> Batch:
    if len(content) > MAX_BYTES:
        raise _damaged(place, f"it has over {MAX_BYTES:,} bytes")
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        fields = {key if isinstance(key, str) else key.decode(): value for key, value in batch.items()}
        data, labels = fields["data"].array(), np.array([operator.index(label) for label in fields["labels"]])
    except Exception as error:  # a hostile pickle can make the unpickler raise almost anything
        raise _damaged(place, f"not a pickle of arrays alone: {type(error).__name__}: {error!s:.100}") from error
    return _checked(data, labels, place)


def _checked(data: npt.NDArray[Any], labels: npt.NDArray[Any], place: str) -> Batch:
    """Planes of red, green and blue become pixels."""
    if data.ndim != 2 or data.shape[1] != 3072 or labels.shape != data.shape[:1] or not len(labels):
        raise _damaged(place, f"it has data of shape {data.shape} and {labels.size} labels, not (N, 3072) and N")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise _damaged(place, f"its labels go from {labels.min()} to {labels.max()}, not from 0 to 9")
    return np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels.astype(np.uint8)


def _damaged(place: str, found: str) -> DataError:
    return DataError(
        f"{place}: is not a whole CIFAR-10 file ({' '.join(found.split())}); delete it and download it again"
    )


class _Type:
    """Stands in for numpy.dtype; only unsigned bytes are admitted, and they have no order to be set."""

    __slots__ = ()

    def __init__(self, code: object, *_flags: object) -> None:
        if code != "u1":
            raise pickle.UnpicklingError("an array of another type than bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for an array: content, type, shape and order, looked at only when it is asked for."""

    __slots__ = ("_state",)

    def __init__(self, *state: object) -> None:
        self._state = state

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _version, shape, kind, by_columns, content = state
        self._state = (content, kind, shape, "F" if by_columns else "C")

    def array(self) -> npt.NDArray[np.uint8]:
        content, kind, shape, order = cast(tuple[Any, ...], self._state)
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 had no bytes
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array without bytes")
        return np.frombuffer(content, dtype=np.uint8).reshape([int(side) for side in shape], order=order)


def _stand_in(module: str, name: str) -> object:
    """What a pickle gets for the names that arrays need: a new function each time, so that none can be altered."""
    if (module, name) == ("numpy", "ndarray"):
        return name
    if (module, name) == ("numpy", "dtype"):
        return lambda code, *flags: _Type(code, *flags)
    if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return lambda _kind, _shape, _code: _Array()
    if name == "_frombuffer" and module in ("numpy.core.numeric", "numpy._core.numeric"):
        return lambda content, kind, shape, order: _Array(content, kind, shape, order)
    raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _load_bytearray8(reader: Any) -> None:
    """Like the original, but takes memory for the bytes that are there, not for those announced."""
    (size,) = struct.unpack("<Q", reader.read(8))
    reader.append(reader.read(size))


def _load_setitems(reader: Any) -> None:
    """Like the original, but for keys of one kind: hashing nested tuples can take for ever."""
    items = reader.pop_mark()
    if any(type(key) not in (str, bytes) for key in items[::2]):
        raise pickle.UnpicklingError("a key that is no text")
    reader.stack[-1].update(zip(items[::2], items[1::2], strict=True))


_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
    *(pickle.BUILD, pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.EMPTY_DICT, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_TUPLE, pickle.TUPLE),
    *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
    *(pickle.BININT1, pickle.BININT2, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINBYTES, pickle.SHORT_BINBYTES),
)


class _ArraysOnly(pickle._Unpickler):  # the one written in Python: its table of instructions can be replaced
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS},
        pickle.BYTEARRAY8[0]: _load_bytearray8,
        pickle.SETITEMS[0]: _load_setitems,
    }

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name)
