"""Open folders of images: plain folders, class folders, and MVTec's train/test layout with masks.

The names of the subfolders determine the layout:

- `train/` or `test/`: class folders below each of them, masks in `ground_truth/<class>/`, matched by `mask_files`;
- `Images/` and `Masks/`, or `Data/` with both: VisA's class folders, of which `Normal` is the normal one;
- `good/` and other subfolders, or any subfolders if a normal class is given: one subfolder per class;
- anything else: all images in the folder, at any depth, are normal.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from oddlens.data.image_io import IMAGE_SUFFIXES
from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.data.sources.mask_files import MASK_FOLDERS, MaskMatches, match_masks
from oddlens.errors import DataError, DataNotFoundError

GOOD = "good"
MASKS = "ground_truth"
VISA = ("Images", "Masks")  # the folders of VisA's layout, in which normal images are in Images/Normal

_NUMBER = re.compile("[0-9]+")


def open_folder(source: str, normal: str | None) -> DataSet:
    """Open the data set in a folder; `source` is its path as the user wrote it, with which all image names start.

    Raises:
        DataNotFoundError: the folder contains no image.
        DataError: there is no such class, or the layout of the folder is ambiguous.
    """
    name = Path(source).resolve().name or source
    subfolders = _subfolders(source)
    if "train" in subfolders or "test" in subfolders:
        return _open_train_and_test(name, source, normal)
    if "Data" in subfolders and _is_visa(_join(source, "Data")):
        source = _join(source, "Data")
    if _is_visa(source):
        return _open_visa(name, source, normal or "Normal")
    misplaced = [folder for folder in subfolders if folder.casefold() in ("train", "test", MASKS)]
    if misplaced:  # as a plain folder, its test images or masks would be training images
        raise DataError(
            f"{source}: has '{misplaced[0]}' but neither 'train' nor 'test'; name the folders "
            f"train/good, test/good, test/<defect> and {MASKS}/<defect>"
        )
    sets = [folder for folder in subfolders if _is_data_set(_join(source, folder))]
    if sets:
        raise DataError(f"{source}: is a folder of data sets; give one of them: {', '.join(sets)}")
    if normal is None and (GOOD not in subfolders or len(subfolders) == 1):
        return DataSet(name, ImageSet.from_files(list_image_files(source)), ImageSet.from_files([]), GOOD)
    normal = normal or GOOD
    require_class(normal, subfolders, source)
    _refuse_loose_images(source)
    train = ImageSet.from_files(list_image_files(_join(source, normal)), kind=normal)
    return DataSet(name, train, _labelled_images(source, subfolders, normal)[0], normal)


def _is_visa(source: str) -> bool:
    return set(VISA) <= set(_subfolders(source)) and "Normal" in _subfolders(_join(source, VISA[0]))


def _is_data_set(source: str) -> bool:
    return {"train", "test"} <= set(_subfolders(source)) or _is_visa(_join(source, "Data"))


def _open_visa(name: str, source: str, normal: str) -> DataSet:
    images, masks = (_join(source, folder) for folder in VISA)
    classes = _subfolders(images)
    require_class(normal, classes, images)
    _refuse_loose_images(images)
    train = ImageSet.from_files(list_image_files(_join(images, normal)), kind=normal)
    labelled, matches = _labelled_images(images, classes, normal, [masks])
    return DataSet(name, train, labelled, normal, matches.unused_by_reason)


def _open_train_and_test(name: str, source: str, normal: str | None) -> DataSet:
    train, test = _join(source, "train"), _join(source, "test")
    train_classes, test_classes = _subfolders(train), _subfolders(test)
    normal = _choose_normal_class(source, train_classes, test_classes, normal)
    for part, classes in ((train, train_classes), (test, test_classes)):
        if classes or part == test:
            _refuse_loose_images(part)
    if train_classes:
        normals = ImageSet.from_files(list_image_files(_join(train, normal)), kind=normal)
    else:
        normals = ImageSet.from_files(list_image_files(train) if Path(train).is_dir() else [], kind=normal)
    folders = [_join(source, folder) for folder in _subfolders(source) if folder.casefold() in MASK_FOLDERS]
    labelled, matches = _labelled_images(test, test_classes, normal, folders)
    if len(normals) + len(labelled) == 0:
        raise _no_images_error(source)
    return DataSet(name, normals, labelled, normal, matches.unused_by_reason)


def _choose_normal_class(source: str, train_classes: list[str], test_classes: list[str], normal: str | None) -> str:
    """The normal class: `normal` if it is not None, else "good", else the only training class."""
    classes = train_classes or test_classes
    if normal is not None:
        require_class(normal, classes, source)
        return normal
    if GOOD in classes or not classes:
        return GOOD
    if len(train_classes) == 1 and GOOD not in test_classes:
        return train_classes[0]
    folder = _join(source, "train" if train_classes else "test")
    raise DataError(f"{folder}: has no class '{GOOD}'; choose the normal class from: {', '.join(classes)}")


def _labelled_images(
    parent: str, classes: Sequence[str], normal: str, mask_folders: Sequence[str] = ()
) -> tuple[ImageSet, MaskMatches]:
    """The labelled images of all classes, with their masks, and how the files in `mask_folders` are matched."""
    files = [(kind, file) for kind in classes for file in _image_files(_join(parent, kind))]
    images = {_join(parent, *place): _join(*place) for place in files}
    masks = {_join(folder, file): file for folder in mask_folders for file in _image_files(folder)}
    matches = match_masks(images, masks)
    kinds, labels = [kind for kind, _ in files], [int(kind != normal) for kind, _ in files]
    return ImageSet.from_files(images, kind=kinds, label=labels, masks=matches.mask_of_each(images)), matches


def list_image_files(folder: str) -> list[str]:
    """Paths of the images below a folder, in natural order.

    Raises:
        DataNotFoundError: there are none.
    """
    names = [_join(folder, file) for file in _image_files(folder)]
    if not names:
        raise _no_images_error(folder)
    return names


def _image_files(folder: str) -> list[str]:
    """Paths of the images below a folder, relative to it, in natural order; hidden files are skipped.

    Symbolic links are followed, but no folder is read twice, so cycles of links end.
    """
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()
    pending, pending_links = deque([""]), deque[str]()  # links come last, so that paths without links are preferred
    while pending or pending_links:
        subfolder = pending.popleft() if pending else pending_links.popleft()
        if not _visit(Path(folder, subfolder), visited):
            continue
        files, folders, links = _list_folder(_join(folder, subfolder))
        paths += [_join(subfolder, name) for name in files]
        pending.extend(_join(subfolder, name) for name in folders)
        pending_links.extend(_join(subfolder, name) for name in links)
    return sorted(paths, key=natural_key)


def _visit(folder: Path, visited: set[tuple[int, int]]) -> bool:
    """Mark a folder as visited; False if it does not exist or was visited before."""
    if not folder.is_dir():
        return False
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in visited
    visited.add(identity)
    return is_new


def _list_folder(folder: str) -> tuple[list[str], list[str], list[str]]:
    """List a folder without hidden entries: images (or links to them), folders, and links to folders."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    if not Path(folder).is_dir():
        return files, folders, links
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_symlink() and Path(entry.path).is_dir():
                links.append(entry.name)
            elif _suffix(entry.name) in IMAGE_SUFFIXES and (entry.is_symlink() or entry.is_file()):
                files.append(entry.name)
    return files, sorted(folders, key=natural_key), sorted(links, key=natural_key)


def _subfolders(folder: str) -> list[str]:
    _, folders, links = _list_folder(folder)
    return sorted(folders + links, key=natural_key)


def _refuse_loose_images(folder: str) -> None:
    """Refuse images outside the class folders: they have no class, and skipping them silently would lose data."""
    loose = sorted(_list_folder(folder)[0], key=natural_key)
    if loose:
        raise DataError(
            f"{_join(folder, loose[0])}: is outside the class folders, with {len(loose) - 1} more; "
            f"move it to the folder of its class, such as {_join(folder, GOOD)}"
        )


def natural_key(path: str) -> tuple[str, str]:
    """Sort key for natural order: folder by folder, numbers by value, case ignored.

    A number becomes a character below all letters, its number of digits, and its digits; the separator of folders sorts
    below that character.

    >>> sorted(["b/1.png", "a10.png", "a9.png", "A2.png"], key=natural_key)
    ['A2.png', 'a9.png', 'a10.png', 'b/1.png']
    """
    return _NUMBER.sub(_number_key, path.casefold().replace(os.sep, "\0")), path


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\1{len(digits):03}{digits}"


def _no_images_error(folder: str) -> DataNotFoundError:
    return DataNotFoundError(f"{folder}: contains no images; add some ({', '.join(sorted(IMAGE_SUFFIXES))})")


def _join(*parts: str) -> str:
    return os.path.join(*parts)  # noqa: PTH118 - pathlib would drop a "./" that the user wrote


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - of 60,000 names
