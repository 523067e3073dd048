"""The door through which data comes in: whatever a user names or hands over becomes an `ImageSet` or a `DataSet`."""

from __future__ import annotations

import contextlib
import difflib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from oddlens.data import in_memory
from oddlens.data.groups import assign_groups
from oddlens.data.image_set import DataSet, ImageSet, LeftOut, concatenate, merge_left_out
from oddlens.data.in_memory import ImageInMemory
from oddlens.data.sources.arrays import open_array_file
from oddlens.data.sources.download import DownloadProgress
from oddlens.data.sources.folders import open_folder, open_image_folder
from oddlens.data.sources.listing import OWN
from oddlens.data.sources.named import NAMES, open_named
from oddlens.errors import DataError, DataNotFoundError, ImageError
from oddlens.io.own_files import is_own_png
from oddlens.io.text import list_names

ALL = "all"  # the normal "class" of a data set in which every class is normal
NAME_PREFIX = "dataset:"  # before the name of a data set, where a folder has the same name

ImagePath = str | os.PathLike[str]
Images = ImageSet | ImagePath | ImageInMemory | Sequence[ImagePath | ImageInMemory]


def open_dataset(
    source: str | Path,
    *,
    normal: str | None = None,
    data_dir: str | Path | None = None,
    download: bool = True,
    progress: DownloadProgress | None = None,
    follow_links: bool = True,
) -> DataSet:
    """Open a data set: a folder, a `.npy` or `.npz` file, or one of `NAMES`.

    A name of `NAMES` is that data set; where there is also a folder of that name, write "./mnist" (or a `Path`) for
    the folder and "dataset:mnist" for the data set. A "~" at the start of a path is the home folder.
    `normal` is the class that is normal; by default "good" where there is such a class, else every image of a named
    set or of a folder without classes. Named sets are looked for in `data_dir`, else in $ODDLENS_DATA, else in a
    cache folder; with `download` False, nothing is downloaded. `progress` is called while a file is downloaded. Without
    `follow_links`, symbolic links below a folder are left out.

    Raises:
        DataNotFoundError: nothing is there, or a named set cannot be downloaded.
        DataError: it cannot be used as a data set, has no such class, or its name means two things.

    Example:
        >>> from oddlens import open_dataset
        >>> digits = open_dataset("digits", normal="3")
        >>> len(digits.train), len(digits.test), digits.test.image(0).shape
        (132, 497, (8, 8, 1))
    """
    if normal == ALL:
        raise DataError(
            f"{source}: the normal class cannot be called '{ALL}', which means every class; leave it out, or rename it"
        )
    with translate_read_errors(str(source)):
        folder = None if data_dir is None else Path(_expand_home(str(data_dir)))
        path = Path(_expand_home(str(source))) if isinstance(source, Path) else _expand_home(source)
        data = _open(path, normal, folder, download, progress, follow_links)
    name = str(source).removeprefix(NAME_PREFIX)
    train, test = (
        replace(part, source=name, normal=data.normal, left_out=data.left_out) for part in (data.train, data.test)
    )
    return replace(data, train=train, test=test)


def _open(
    source: str | Path,
    normal: str | None,
    data_dir: Path | None,
    download: bool,
    progress: DownloadProgress | None,
    follow_links: bool,
) -> DataSet:
    name, path = str(source), Path(source)
    set_name = name.removeprefix(NAME_PREFIX)
    is_path = isinstance(source, Path) and path.exists()
    if set_name in NAMES and not is_path:
        if set_name == name and path.is_dir():
            raise DataError(
                f"{name}: is both a folder here and the name of a data set; write {os.curdir}{os.sep}{name} for the "
                f"folder, or {NAME_PREFIX}{name} for the data set"
            )
        return open_named(set_name, normal, data_dir, download, progress)
    if set_name != name and not path.exists():
        raise DataNotFoundError(f"{name}: '{set_name}' is not a data set; name one of: {', '.join(NAMES)}")
    if path.is_dir():
        return open_folder(name, normal, follow_links)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return open_array_file(name, normal)
    if path.exists():
        raise DataError(f"{name}: is a single file; give a folder of images, or a .npy or .npz file")
    near = difflib.get_close_matches(name.lower(), NAMES, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"check the path, or name one of: {', '.join(NAMES)}"
    raise DataNotFoundError(f"{name}: is no folder, file or known data set; {hint}")


def open_training_images(
    source: str | Path,
    *,
    normal: str | None = None,
    data_dir: Path | None = None,
    skip_unreadable: bool = False,
    group_by: str | None = None,
    progress: DownloadProgress | None = None,
) -> tuple[ImageSet, list[ImageError]]:
    """The normal training images of a data set, and the errors of those that were left out as unreadable.

    Raises:
        DataNotFoundError, DataError: as `open_dataset`.
        SettingsError: `group_by` is not understood; see `assign_groups`.
    """
    images = open_dataset(source, normal=normal, data_dir=data_dir, progress=progress).train
    images, problems = images.readable() if skip_unreadable else (images, [])
    return (images if group_by is None else assign_groups(images, group_by)), problems


def as_training_images(images: Images) -> ImageSet:
    """Images to train or calibrate on: of a folder or data set with a training part, that part."""
    if isinstance(images, str | os.PathLike):
        return warn_left_out(open_dataset(images if isinstance(images, str) else Path(images)).train)
    return as_image_set(images)


def as_image_set(images: Images) -> ImageSet:
    """Images in whatever form a user has them, as an `ImageSet`.

    One image or a list of them, in which the forms may be mixed:

    - the path of a file, or of a folder, which stands for all images in it;
    - an array (H, W), (H, W, 1) or (H, W, 3) of uint8, uint16, bool or floats in 0..1, in the order RGB;
    - a tensor that NumPy converts to such an array;
    - an image of Pillow, which becomes the same pixels as its file;
    - `bytes`, the content of an image file.

    One array or tensor (N, H, W) or (N, H, W, C) holds N images. Images in memory are named "array[3]", by their
    position. Arrays are not copied; contents of files are decoded when they are used.

    Raises:
        DataError: it is something else, or an image cannot be used; the message gives the position and the fix.
    """
    if isinstance(images, ImageSet):
        return images
    if in_memory.is_array(images):
        return ImageSet.from_array(in_memory.as_stack(images))
    entries = in_memory.as_sequence(images)
    parts = []
    for are_paths, group in groupby(enumerate(entries), lambda entry: isinstance(entry[1], str | os.PathLike)):
        run = list(group)
        parts.append(open_images([os.fsdecode(path) for _, path in run]) if are_paths else in_memory.as_set(run))
    if not parts:
        return open_images([])
    together = parts[0] if len(parts) == 1 else replace(concatenate(parts), source=f"a list of {len(entries)}")
    return warn_left_out(together)


def open_images(sources: Sequence[str | Path], leave_out_own: bool = False) -> ImageSet:
    """Open image files and the images in folders, in the order of `sources`, without classes or labels.

    Folders are searched to any depth, in natural order ("2.png" before "10.png"). Figures and maps that oddlens wrote
    are left out of folders; with `leave_out_own`, files that are named one by one (by a shell's "*.png") are too.

    Raises:
        DataNotFoundError: a path does not exist, or there is no image.
        DataError: masks lie among the images of a folder.
    """
    parts: list[ImageSet] = []
    own: list[str] = []
    for source in (_expand_home(str(source)) for source in sources):
        with translate_read_errors(source):
            if Path(source).is_dir():
                parts.append(open_image_folder(source))
            elif not Path(source).exists():
                raise DataNotFoundError(f"{source}: does not exist; check the path")
            elif leave_out_own and is_own_png(Path(source)):
                own.append(source)
            else:
                parts.append(ImageSet.from_files([source]))
    if not parts:
        ours = f"{own[0]} was {OWN}, " if own else ""
        raise DataNotFoundError(f"{ours}there are no images to open; give files or folders of images")
    names = [name for part in parts for name in part.names]
    left_out = merge_left_out([*(part.left_out for part in parts), {OWN: tuple(own)} if own else {}])
    source = str(sources[0]) if len(sources) == 1 else f"{len(sources)} files and folders"
    return replace(ImageSet.from_files(names, kind="", source=source), left_out=left_out)


def _expand_home(path: str) -> str:
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib would drop a "./" that the user wrote


def warn_left_out(images: ImageSet) -> ImageSet:
    """The same images; a Python warning says what was left out of them."""
    for line in describe_left_out(images.left_out):
        warnings.warn(line, stacklevel=4)
    return images


def describe_left_out(left_out: LeftOut) -> list[str]:
    """What was left out, a line for each reason."""
    return [f"left out, {reason}: {list_names(paths)}" for reason, paths in left_out.items()]


@contextlib.contextmanager
def translate_read_errors(source: str) -> Iterator[None]:
    """Raise the errors of the file system in the with-block as a DataError that names `source`."""
    try:
        yield
    except OSError as error:
        source = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else source
        name = source if len(source) < 500 else f"{source[:100]}..."
        raise DataError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from error
