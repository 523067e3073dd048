"""Images in memory: arrays, tensors, images of Pillow, and the contents of image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from oddlens.data.image_io import Pixels, as_pixels, convert
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.errors import DataError, ImageError


class SupportsArray(Protocol):
    """A tensor of PyTorch, JAX or TensorFlow: what NumPy converts to an array. None of them is imported for that."""

    def __array__(self) -> npt.NDArray[Any]:
        """The values as an array."""


ImageInMemory = npt.NDArray[Any] | SupportsArray | Image.Image | bytes | bytearray | memoryview
CONTENTS = bytes | bytearray | memoryview
MAX_PATH = 4096  # bytes; a content that is a path is shorter


def is_array(images: object) -> TypeGuard[SupportsArray]:
    """Whether it is an array or a tensor."""
    return hasattr(images, "__array__") and not isinstance(images, str | bytes | Image.Image | type)


def as_stack(images: SupportsArray) -> npt.NDArray[Any]:
    """An array or tensor of one image or of several as one of several, (N, H, W) or (N, H, W, C).

    Raises:
        DataError: it is not one of images, or it could mean two things.
    """
    array = as_array(images, "array")
    shape = array.shape
    if array.ndim == 1 and array.dtype.kind in "OUST":
        kind = "objects" if array.dtype.kind == "O" else "text"
        raise DataError(f"array: is an array of {kind}; make a list of its entries: images.tolist()")
    if array.ndim == 3 and shape[-1] in (2, 4):
        raise ImageError("array", f"has shape {shape}: {_extra_channels(shape[-1])}")
    if array.ndim == 3 and shape[0] == 3 and shape[-1] not in (1, 3) and not isinstance(images, np.ndarray):
        fix = "np.moveaxis(np.asarray(tensor), 0, -1), or of 3 grey images tensor[..., None]"
        raise ImageError("array", f"is a tensor of shape {shape}: channels must be last: {fix}")
    return array[None] if is_single(shape) else array


def as_sequence(images: object) -> Sequence[Any]:
    """One image, or a list of them, as a list.

    Raises:
        DataError: it is neither.
    """
    if isinstance(images, str | os.PathLike | Image.Image | CONTENTS):
        return [images]
    if not isinstance(images, Sequence):
        raise DataError(f"images: {describe(images)}")
    return images


def as_set(entries: Iterable[tuple[int, object]]) -> ImageSet:
    """Images in memory, with the position of each in the user's list, after which it is named.

    Raises:
        ImageError: one cannot be used.
    """
    images = {f"array[{position}]": as_image(entry, f"array[{position}]") for position, entry in entries}
    count = len(images)
    return ImageSet(
        names=tuple(images),
        kinds=("",) * count,
        labels=np.zeros(count, dtype=np.int8),
        images=tuple(images.values()),
        masks=(None,) * count,
        source=f"a list of {count}",
    )


def as_image(image: object, name: str) -> Pixels | bytes:
    """One image in memory as pixels (H, W, C); the content of a file is decoded later.

    Raises:
        ImageError: it cannot be used.
    """
    if isinstance(image, CONTENTS):
        content = bytes(image)
        if len(content) < MAX_PATH and os.path.exists(content):  # noqa: PTH110 - of bytes, with NULs perhaps
            raise ImageError(name, f"is a path as bytes; pass it as text: os.fsdecode({content!r})")
        return content
    if isinstance(image, Image.Image):
        return convert(image, name)
    if not is_array(image):
        raise ImageError(name, describe(image))
    array = as_array(image, name)
    problem = None if is_single(array.shape) else _single_problem(array.shape)
    if problem:
        raise ImageError(name, f"has shape {array.shape}: {problem}")
    pixels: Pixels = as_pixels(array[None], name)[0]
    return pixels


def as_array(values: SupportsArray, name: str) -> npt.NDArray[Any]:
    """What NumPy makes of an array or a tensor.

    Raises:
        ImageError: it cannot convert it, such as a tensor on a GPU.
    """
    if isinstance(values, np.ndarray):
        return values
    try:
        return np.asarray(values)
    except Exception as error:  # each library raises its own
        cause = " ".join(str(error).split()).rstrip(".")
        problem = f"is of type {type(values).__name__}, which NumPy cannot convert ({cause})"
        raise ImageError(name, f"{problem}; make an array of it, of type uint8") from error


def is_single(shape: tuple[int, ...]) -> bool:
    """Whether this is the shape of one image."""
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))


def _single_problem(shape: tuple[int, ...]) -> str:
    """Why this is not the shape of one image."""
    if len(shape) == 3 and shape[0] in (1, 3):
        return "channels must be last: np.moveaxis(array, 0, -1)"
    if len(shape) == 3 and shape[-1] in (2, 4):
        return _extra_channels(shape[-1])
    if len(shape) == 4:
        return "it is several images; pass this array alone, or join several: np.concatenate(arrays)"
    return "pass an image as (H, W), (H, W, 1) or (H, W, 3)"


def _extra_channels(count: int) -> str:
    return (
        f"an image has 1 channel (grey) or 3 (RGB), not {count}; array[..., :{count - 1}] leaves the last one out, "
        "PIL.Image.fromarray(array) shows transparent pixels in white"
    )


def describe(item: object) -> str:
    """Why something is not an image or a list of images, and what to pass instead."""
    kind = type(item).__name__
    if item is None:
        return "is None, which cv2.imread returns for a file that it cannot read; check its path"
    if isinstance(item, DataSet):
        return "is a data set of training and test images; pass one of them: data.train or data.test"
    if hasattr(item, "read"):
        return f"is an open file ({kind}); pass its path, or its content: file.read()"
    if isinstance(item, Mapping):
        return f"is of type {kind}; pass the images in it, such as list(images.values())"
    if isinstance(item, Sequence):
        return f"is of type {kind}; pass the image alone, without a label and not in a list"
    if isinstance(item, Iterable):
        return f"is of type {kind}; make a list of it: list(images)"
    return f"is of type {kind}; pass images as paths, arrays, images of Pillow or bytes of image files"
