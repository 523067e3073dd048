"""Open folders of images: plain folders, class folders, and MVTec's train/test layout with masks.

The names of the subfolders determine the layout:

- `train/` or `test/`: class folders below each of them, masks in `ground_truth/<class>/<name>_mask.*`;
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
from oddlens.data.image_set import DataSet, ImageSet, concatenate, require_class
from oddlens.errors import DataError, DataNotFoundError

GOOD = "good"
MASKS = "ground_truth"

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
    misplaced = [folder for folder in subfolders if folder.casefold() in ("train", "test", MASKS)]
    if misplaced:  # as a plain folder, its test images or masks would be training images
        raise DataError(
            f"{source}: has '{misplaced[0]}' but neither 'train' nor 'test'; name the folders "
            f"train/good, test/good, test/<defect> and {MASKS}/<defect>"
        )
    sets = [folder for folder in subfolders if {"train", "test"} <= set(_subfolders(_join(source, folder)))]
    if sets:
        raise DataError(f"{source}: is a folder of data sets; give one of them: {', '.join(sets)}")
    if normal is None and (GOOD not in subfolders or len(subfolders) == 1):
        images = ImageSet.from_files(list_image_files(source))
        return DataSet(name, images, ImageSet.from_files([]), GOOD, is_plain=True)
    normal = normal or GOOD
    require_class(normal, subfolders, source)
    _refuse_loose_images(source)
    train = ImageSet.from_files(list_image_files(_join(source, normal)), kind=normal)
    return DataSet(name, train, _labelled_images(source, subfolders, normal), normal)


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
    labelled = _labelled_images(test, test_classes, normal, _join(source, MASKS))
    if len(normals) + len(labelled) == 0:
        raise _no_images_error(source)
    used = {str(mask) for mask in labelled.masks}
    masks = [_join(source, MASKS, file) for file in _image_files(_join(source, MASKS))]
    return DataSet(name, normals, labelled, normal, tuple(mask for mask in masks if str(Path(mask)) not in used))


def _choose_normal_class(source: str, train_classes: list[str], test_classes: list[str], normal: str | None) -> str:
    """The normal class: `normal` if it is not None, else "good", else the only training class.

    A test part may have defects alone: "good" need not be among its classes where it is `normal`, or where there is no
    training part.
    """
    classes = train_classes or test_classes
    if normal is not None:
        if normal != GOOD or train_classes:
            require_class(normal, classes, source)
        return normal
    if GOOD in classes or not classes or not Path(source, "train").is_dir():
        return GOOD
    if len(train_classes) == 1 and GOOD not in test_classes:
        return train_classes[0]
    folder = _join(source, "train" if train_classes else "test")
    alone = "" if train_classes else f", or choose '{GOOD}' if all of these are defects"
    raise DataError(f"{folder}: has no class '{GOOD}'; choose the normal class from: {', '.join(classes)}{alone}")


def _labelled_images(parent: str, classes: Sequence[str], normal: str, masks: str | None = None) -> ImageSet:
    """The labelled images of all classes, with their masks if `masks` is a folder that contains them by class."""
    sets = []
    for kind in classes:
        files = list(_image_files(_join(parent, kind)))
        folder = None if masks is None else _join(masks, kind)
        mask_files = {} if folder is None else {_stem(file): Path(folder, file) for file in _image_files(folder)}
        paths = [_join(parent, kind, file) for file in files]
        image_masks = [mask_files.get(f"{_stem(file)}_mask") for file in files]
        sets.append(ImageSet.from_files(paths, kind=kind, label=int(kind != normal), masks=image_masks))
    return concatenate(sets)


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


def _stem(file: str) -> str:
    return file.removesuffix(Path(file).suffix)
