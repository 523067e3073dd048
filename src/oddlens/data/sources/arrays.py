"""Open data sets in arrays: `.npy` and `.npz` files, and the labelled arrays of published data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.errors import DataError, OddlensError

MAX_BYTES = 16 * 2**30  # decompressed size of an .npz file

_KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")

Array = npt.NDArray[Any]


class LabelledArrays(NamedTuple):
    """Training and test images, (N, H, W[, C]), with their classes, (N,) str."""

    x_train: Array
    kinds_train: npt.NDArray[np.str_]
    x_test: Array
    kinds_test: npt.NDArray[np.str_]


def build_labelled_dataset(name: str, arrays: LabelledArrays, normal: str | None) -> DataSet:
    """Build a data set with one normal class; with None, all classes are normal and no test image is anomalous.

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


def open_array_file(source: str, normal: str | None) -> DataSet:
    """Open a `.npy` or `.npz` file of one array of normal images, or an `.npz` file with the arrays of Keras's MNIST.

    `source` is the path as the user wrote it; the images are named after it.

    Raises:
        DataError: the file is damaged, contains Python objects or other arrays, or has no such class.
    """
    path = Path(source)
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # not loaded before it is used
        except Exception as error:
            raise _unreadable_error(path, error) from error
    else:
        with _open_npz(path) as file:
            if set(_KERAS_NAMES) <= set(file.files):
                return build_labelled_dataset(path.stem, _read_labelled(path, file), normal)
            if len(file.files) != 1:
                raise DataError(
                    f"{source}: contains the arrays {', '.join(file.files) or '(none)'}; "
                    f"save one array of images, or {', '.join(_KERAS_NAMES)}"
                )
            array = file[file.files[0]]
    if normal is not None:
        raise DataError(f"{source}: has no classes, so '{normal}' cannot be the normal class; leave it out")
    return DataSet(path.stem, ImageSet.from_array(array, name=source), ImageSet.from_files([]), "good", is_plain=True)


def read_keras_npz(path: Path) -> LabelledArrays:
    """Read an `.npz` file with x_train, y_train, x_test and y_test; the class names are the label numbers.

    Raises:
        DataError: the file is damaged, or does not have one integer label per image.
    """
    with _open_npz(path) as file:
        return _read_labelled(path, file)


def _read_labelled(path: Path, file: Mapping[str, Array]) -> LabelledArrays:
    x_train, y_train, x_test, y_test = (file[name] for name in _KERAS_NAMES)
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        if labels.dtype.kind not in "iu" or images.ndim == 0 or labels.size != len(images):
            raise DataError(
                f"{path}: has labels of shape {labels.shape} and type {labels.dtype} for images of shape "
                f"{images.shape}; save one integer label per image"
            )
    return LabelledArrays(x_train, y_train.ravel().astype(np.str_), x_test, y_test.ravel().astype(np.str_))


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Any]:
    """Open an `.npz` file; all errors of NumPy with a damaged one are raised as a DataError."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > MAX_BYTES:
                raise DataError(f"{path}: decompresses to {size:,} bytes, over the limit of {MAX_BYTES:,}; split it")
            yield file
    except OddlensError:
        raise
    except Exception as error:
        raise _unreadable_error(path, error) from error


def _unreadable_error(path: Path, error: Exception) -> DataError:
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"{path}: is not a valid {path.suffix} file ({cause}); save it again with NumPy")
