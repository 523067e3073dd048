"""Folders of images: plain ones, class folders, and the train/test layout with masks (MVTec's).

What a folder means is decided by the names of its subfolders:

- `train/` or `test/`: classes below each of them, masks in `ground_truth/<class>/<name>_mask.*`;
- `good/` beside other subfolders, or a class asked for as normal: one subfolder a class;
- anything else: every image in it, however deep, is normal.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from oddlens.data.image_io import IMAGE_SUFFIXES
from oddlens.data.image_set import DataSet, ImageSet, concatenate, require_class
from oddlens.errors import DataError, DataNotFoundError

GOOD = "good"
MASKS = "ground_truth"

_NUMBER = re.compile("[0-9]+")


def open_images(sources: Sequence[str | Path]) -> ImageSet:
    """The image files named and those in the folders named, in the order given; nothing is known of them.

    A folder is searched to any depth, in natural order ("2.png" before "10.png").

    Raises:
        DataNotFoundError: a path is not there, or a folder holds no image.
    """
    names: list[str] = []
    for source in map(str, sources):
        with translate_read_errors(source):
            names += _required_files(source) if Path(source).is_dir() else [_existing(source)]
    if not names:
        raise DataNotFoundError("no image was named; give files or folders of images")
    return ImageSet.from_files(names, kind="")


@contextlib.contextmanager
def translate_read_errors(given: str) -> Iterator[None]:
    """Make a DataError of what the file system says while `given` is looked through."""
    try:
        yield
    except OSError as error:
        place = given if len(given) < 500 else f"{given[:100]}..."
        raise DataError(f"{place}: cannot be read ({error.strerror}); check the path and its permissions") from error


def open_folder(given: str, normal: str | None) -> DataSet:
    """The data set in a folder; `given` is its path as the user wrote it, and begins every image's name.

    Raises:
        DataNotFoundError: it holds no image.
        DataError: the class asked for is not there, or the folder can be understood in more than one way.
    """
    name = Path(given).resolve().name or given
    inside = _subfolders(given)
    if "train" in inside or "test" in inside:
        return _train_and_test(name, given, normal)
    misplaced = [folder for folder in inside if folder.casefold() in ("train", "test", MASKS)]
    if misplaced:  # taken for normal images, tests or masks would be learnt
        raise DataError(
            f"{given}: has '{misplaced[0]}' but neither 'train' nor 'test'; name its folders "
            f"train/good, test/good, test/<defect> and {MASKS}/<defect>"
        )
    sets = [folder for folder in inside if {"train", "test"} <= set(_subfolders(_join(given, folder)))]
    if sets:
        raise DataError(f"{given}: is a folder of data sets; name one of them: {', '.join(sets)}")
    if normal is None and (GOOD not in inside or len(inside) == 1):
        return DataSet(name, ImageSet.from_files(_required_files(given)), ImageSet.from_files([]), GOOD)
    normal = normal or GOOD
    require_class(normal, inside, given)
    _refuse_loose_images(given)
    train = ImageSet.from_files(_required_files(_join(given, normal)), kind=normal)
    return DataSet(name, train, _labelled(given, inside, normal), normal)


def _train_and_test(name: str, given: str, normal: str | None) -> DataSet:
    train, test = _join(given, "train"), _join(given, "test")
    learnt, tested = _subfolders(train), _subfolders(test)
    normal = _normal_class(given, learnt, tested, normal)
    for part, classes in ((train, learnt), (test, tested)):
        if classes or part == test:
            _refuse_loose_images(part)
    if learnt:
        normals = ImageSet.from_files(_required_files(_join(train, normal)), kind=normal)
    else:
        normals = ImageSet.from_files(_required_files(train) if Path(train).is_dir() else [], kind=normal)
    labelled = _labelled(test, tested, normal, _join(given, MASKS))
    if len(normals) + len(labelled) == 0:
        raise _no_images(given)
    used = {str(mask) for mask in labelled.masks}
    masks = [_join(given, MASKS, file) for file in _image_files(_join(given, MASKS))]
    return DataSet(name, normals, labelled, normal, tuple(mask for mask in masks if str(Path(mask)) not in used))


def _normal_class(given: str, learnt: list[str], tested: list[str], normal: str | None) -> str:
    """The class that is normal: the one asked for, else "good", else the only one to learn from."""
    classes = learnt or tested
    if normal is not None:
        require_class(normal, classes, given)
        return normal
    if GOOD in classes or not classes:
        return GOOD
    if len(learnt) == 1 and GOOD not in tested:
        return learnt[0]
    place = _join(given, "train" if learnt else "test")
    raise DataError(f"{place}: has no class '{GOOD}'; say which one is normal, of: {', '.join(classes)}")


def _labelled(given: str, classes: Sequence[str], normal: str, masks: str | None = None) -> ImageSet:
    """The images of all classes, labelled, each with its mask where `masks` has a folder of its class."""
    sets = []
    for kind in classes:
        files = list(_image_files(_join(given, kind)))
        folder = None if masks is None else _join(masks, kind)
        found = {} if folder is None else {_stem(file): Path(folder, file) for file in _image_files(folder)}
        paths = [_join(given, kind, file) for file in files]
        of_each = [found.get(f"{_stem(file)}_mask") for file in files]
        sets.append(ImageSet.from_files(paths, kind=kind, label=int(kind != normal), masks=of_each))
    return concatenate(sets)


def _required_files(given: str) -> list[str]:
    names = [_join(given, file) for file in _image_files(given)]
    if not names:
        raise _no_images(given)
    return names


def _image_files(folder: str) -> list[str]:
    """Paths of the images below a folder, relative to it, in natural order; hidden files are left out.

    Links are followed, but no folder is read twice, so links that lead round in a circle end.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    real, linked = deque([""]), deque[str]()  # a folder is rather found under its own name than under a link's
    while real or linked:
        inside = real.popleft() if real else linked.popleft()
        if not _is_new(Path(folder, inside), seen):
            continue
        files, folders, links = _listed(_join(folder, inside))
        found += [_join(inside, name) for name in files]
        real.extend(_join(inside, name) for name in folders)
        linked.extend(_join(inside, name) for name in links)
    return sorted(found, key=natural_key)


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder is there and was not seen before; it is from now on."""
    if not folder.is_dir():
        return False
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    is_new = identity not in seen
    seen.add(identity)
    return is_new


def _listed(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Names in a folder, without the hidden: images (or links to them), folders, links to folders."""
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
    _, folders, links = _listed(folder)
    return sorted(folders + links, key=natural_key)


def _refuse_loose_images(folder: str) -> None:
    """Images beside class folders belong to no class; leaving them out silently would lose data."""
    loose = sorted(_listed(folder)[0], key=natural_key)
    if loose:
        raise DataError(
            f"{_join(folder, loose[0])}: lies outside the class folders, with {len(loose) - 1} more; "
            f"move it into the folder of its class, such as {_join(folder, GOOD)}"
        )


def natural_key(path: str) -> tuple[str, str]:
    """Sorts paths as people do: folder by folder, numbers by their value, capitals beside small letters.

    A number becomes a mark below any letter, how many digits it has, and its digits; a folder ends below that mark.

    >>> sorted(["b/1.png", "a10.png", "a9.png", "A2.png"], key=natural_key)
    ['A2.png', 'a9.png', 'a10.png', 'b/1.png']
    """
    return _NUMBER.sub(_by_value, path.casefold().replace(os.sep, "\0")), path


def _by_value(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\1{len(digits):03}{digits}"


def _existing(source: str) -> str:
    if not Path(source).exists():
        raise DataNotFoundError(f"{source}: is not there; check the path")
    return source


def _no_images(folder: str) -> DataNotFoundError:
    return DataNotFoundError(f"{folder}: holds no images; put some there ({', '.join(sorted(IMAGE_SUFFIXES))})")


def _join(*parts: str) -> str:
    return os.path.join(*parts)  # noqa: PTH118 - pathlib would drop a "./" that the user wrote


def _suffix(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - of 60,000 names


def _stem(file: str) -> str:
    return file.removesuffix(Path(file).suffix)
