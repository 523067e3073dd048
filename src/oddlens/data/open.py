"""Sets of images: folders, arrays and data sets known by name; splits that keep near-duplicates together."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import as_pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.sources.arrays import open_array_file
from oddlens.data.sources.folders import open_folder, open_images, translate_read_errors
from oddlens.data.sources.named import NAMES, open_named
from oddlens.errors import DataError, DataNotFoundError


def open_dataset(
    source: str | Path, *, normal: str | None = None, data_dir: str | Path | None = None, download: bool = True
) -> DataSet:
    """Open what a user calls a data set: a folder, a `.npy` or `.npz` file, or one of `NAMES`.

    A name is taken for a folder only where it is written as a path ("./mnist", "data/mnist", or a `Path`
    that exists). `normal` is the class that is normal; without it, "good" where there is such a class, and
    every image of a named set or of a folder without known classes. `data_dir` is where named sets are
    looked for, instead of $ODDLENS_DATA or a cache folder; `download` False takes only what is there.

    Raises:
        DataNotFoundError: nothing is there, or a named set cannot be downloaded.
        DataError: it cannot be used as a data set, or has no such class.
    """
    with translate_read_errors(str(source)):
        return _open(source, normal, None if data_dir is None else Path(data_dir), download)


def _open(source: str | Path, normal: str | None, data_dir: Path | None, download: bool) -> DataSet:
    given, path = str(source), Path(source)
    is_path = os.sep in given or given.startswith(".") or (isinstance(source, Path) and path.exists())
    if given in NAMES and not is_path:
        return open_named(given, normal, data_dir, download)
    if path.is_dir():
        return open_folder(given, normal)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return open_array_file(given, normal)
    if path.exists():
        raise DataError(f"{given}: is one file; give a folder of images, or a .npy or .npz file")
    near = difflib.get_close_matches(given.lower(), NAMES, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"check the path, or name one of: {', '.join(NAMES)}"
    raise DataNotFoundError(f"{given}: is no folder, file or known data set; {hint}")


Images = ImageSet | npt.NDArray[Any] | str | Path | Sequence[str | Path]


def normal_images(images: Images) -> ImageSet:
    """What to learn normal from: of a folder or data set with a training part, that part."""
    if isinstance(images, str | Path):
        return open_dataset(images).train
    return as_image_set(images)


def as_image_set(images: Images) -> ImageSet:
    """Whatever a user hands over, as an `ImageSet`."""
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, np.ndarray):
        return ImageSet.from_array(as_pixels(images))
    return open_images([images] if isinstance(images, str | Path) else images)


def describe(images: Images) -> str:
    """Where images came from, for the manifest."""
    if isinstance(images, str | Path):
        return str(images)
    if isinstance(images, ImageSet):
        return images.names[0].rsplit("/", 1)[0] if len(images) else "nothing"
    return f"array {images.shape}" if isinstance(images, np.ndarray) else f"{len(images)} files and folders"
