"""Arrays of images: labelled ones as data sets, and `.npy` and `.npz` files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.errors import DataError, OddlensError

MAX_BYTES = 16 * 2**30  # that an .npz file may unpack to

_KERAS = ("x_train", "y_train", "x_test", "y_test")

Array = npt.NDArray[Any]


class LabelledArrays(NamedTuple):
    """Images to learn from and to test on, (N, H, W[, C]), with the class of each, (N,) str."""

    x_train: Array
    kinds_train: npt.NDArray[np.str_]
    x_test: Array
    kinds_test: npt.NDArray[np.str_]


def labelled_set(name: str, arrays: LabelledArrays, normal: str | None) -> DataSet:
    """A data set with one normal class, or with all of them normal (then no test image is anomalous).

    Raises:
        DataError: there is no such class, or the arrays are not images.
    """
    if normal is not None:
        require_class(normal, np.unique(arrays.kinds_train).tolist(), name)
    train = ImageSet.from_array(arrays.x_train, name="train", kind=arrays.kinds_train.tolist())
    labels = np.zeros(len(arrays.x_test), dtype=np.int8) if normal is None else arrays.kinds_test != normal
    test = ImageSet.from_array(arrays.x_test, name="test", kind=arrays.kinds_test.tolist(), label=labels)
    if normal is None:
        return DataSet(name, train, test, "all")
    return DataSet(name, train.subset(arrays.kinds_train == normal), test, normal)


def open_array_file(given: str, normal: str | None) -> DataSet:
    """A `.npy` or `.npz` file of one array of normal images, or an `.npz` file laid out as Keras's mnist.npz.

    Raises:
        DataError: the file is damaged, holds Python objects or other arrays, or has no such class.
    """
    path = Path(given)
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # in memory only when it is asked for
        except Exception as error:
            raise _unreadable(path, error) from error
    else:
        with _opened(path) as file:
            if set(_KERAS) <= set(file.files):
                return labelled_set(path.stem, _labelled(path, file), normal)
            if len(file.files) != 1:
                raise DataError(
                    f"{given}: holds the arrays {', '.join(file.files) or '(none)'}; "
                    f"save one array of images, or {', '.join(_KERAS)}"
                )
            array = file[file.files[0]]
    if normal is not None:
        raise DataError(f"{given}: has no classes, so that '{normal}' cannot be the normal one; leave it out")
    return DataSet(path.stem, ImageSet.from_array(array, name=given), ImageSet.from_files([]), "good")


def read_keras(path: Path) -> LabelledArrays:
    """Read an `.npz` file of x_train, y_train, x_test and y_test; the classes are called by their numbers.

    Raises:
        DataError: the file is damaged, or has not one whole-numbered label an image.
    """
    with _opened(path) as file:
        return _labelled(path, file)


def _labelled(path: Path, file: Mapping[str, Array]) -> LabelledArrays:
    x_train, y_train, x_test, y_test = (file[name] for name in _KERAS)
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        if labels.dtype.kind not in "iu" or images.ndim == 0 or labels.size != len(images):
            raise DataError(
                f"{path}: has labels of shape {labels.shape} and type {labels.dtype} for images of shape "
                f"{images.shape}; save one whole number an image"
            )
    return LabelledArrays(x_train, y_train.ravel().astype(np.str_), x_test, y_test.ravel().astype(np.str_))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An `.npz` file; what a damaged one makes NumPy stumble over leaves the block as a DataError."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > MAX_BYTES:
                raise DataError(f"{path}: would unpack to {size:,} bytes, over the limit of {MAX_BYTES:,}; split it")
            yield file
    except OddlensError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: is no readable {path.suffix} file ({cause}); save it again with NumPy")
