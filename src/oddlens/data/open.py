"""Sets of images: folders, arrays and data sets known by name; splits that keep near-duplicates together."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from oddlens.datasets.arrays import open_array_file
from oddlens.datasets.folders import open_folder, open_images, reading
from oddlens.datasets.grouping import grouped
from oddlens.datasets.image_set import DataSet, ImageSet, concatenate
from oddlens.datasets.named import NAMES, open_named
from oddlens.datasets.splits import near_duplicate_groups, split_groups, thumbnails
from oddlens.errors import DataError, DataNotFoundError

__all__ = [
    "NAMES",
    "DataSet",
    "ImageSet",
    "concatenate",
    "grouped",
    "near_duplicate_groups",
    "open_dataset",
    "open_images",
    "split_groups",
    "thumbnails",
]


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
    with reading(str(source)):
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
