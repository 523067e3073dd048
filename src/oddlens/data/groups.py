"""Assign images to groups: by the folder of each file, or by a column of a CSV file."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from oddlens.data.csv_files import normalized_path, read_rows
from oddlens.data.image_set import ImageSet
from oddlens.errors import DataError, SettingsError
from oddlens.io.paths import expand_home
from oddlens.io.text import as_text, one_line

FOLDER = "folder"
FILE_COLUMN = "file"  # the column that names an image
_TABLE_AND_COLUMN = re.compile(r"(.+?\.\w+):(.+)")


def assign_groups(images: ImageSet, by: str) -> ImageSet:
    """Return the same images with their groups.

    `by` is "folder", which groups files by the name of their folder, or "FILE.csv:COLUMN", which groups images by a
    column of a CSV file (of any suffix). Its column `file` names the images, by their path relative to the working
    directory or to the CSV file; separators and Unicode forms may be those of another system. A bare file name is
    enough if only one of the images has it.

    Raises:
        SettingsError: `by` is neither of the two.
        DataNotFoundError: the CSV file does not exist.
        DataError: the CSV file has no group for an image, or images that are not files are to be grouped by folder.
    """
    if by == FOLDER:
        return _group_by_folder(images)
    parts = _TABLE_AND_COLUMN.fullmatch(by)
    if parts is None:
        raise SettingsError(f"--group-by {by}: must be 'folder' or FILE.csv:COLUMN")
    path, column = Path(expand_home(parts[1])), parts[2]
    groups = read_groups(path, column)
    by_path = {_absolute(path.parent / name): group for name, group in groups.items()}
    by_path |= {_absolute(name): group for name, group in groups.items()}
    by_name = {name: group for name, group in groups.items() if "/" not in name}
    name_counts = Counter(Path(normalized_path(name)).name for name in images.names)

    def group_of(image: str) -> str:
        name = Path(normalized_path(image)).name
        group = by_path.get(_absolute(image)) or (by_name.get(name) if name_counts[name] == 1 else None)
        if group is None:
            fix = "add a row with its path" + ("" if name.isascii() else ", or save the table as UTF-8")
            raise DataError(f"{path}: has no row for {image} in column {column}; {fix}")
        return group

    return replace(
        images, groups=tuple(as_text(group_of(name)) for name in images.names), grouped_by=f"column {column}"
    )


def _group_by_folder(images: ImageSet) -> ImageSet:
    arrays = [name for name, image in zip(images.names, images.images, strict=True) if not isinstance(image, str)]
    if arrays:
        raise DataError(f"{arrays[0]}: is not a file, so it has no folder; group images of arrays by FILE.csv:COLUMN")
    groups = tuple(as_text(Path(_absolute(name)).parent.name) or "/" for name in images.names)
    return replace(images, groups=groups, grouped_by=FOLDER)


def _absolute(path: str | Path) -> str:
    return normalized_path(os.path.abspath(path))  # noqa: PTH100 - resolves ".."


def read_groups(path: Path, column: str) -> dict[str, str]:
    """Read the group of each file, by its `normalized_path`, from the columns `file` and `column` of a CSV file.

    Raises:
        DataNotFoundError: the CSV file does not exist.
        DataError: it is not such a CSV file, a row lacks a value, or a file has two groups.
    """
    groups: dict[str, str] = {}
    for line, row in read_rows(path, (FILE_COLUMN, column)):
        name, group = row[FILE_COLUMN], row[column]
        if not name or not group:
            raise DataError(f"{path}, line {line}: has no value for {FILE_COLUMN} or {column}; fill it in")
        if groups.setdefault(normalized_path(name), group) != group:
            names = f"{one_line(name)} into a second group, {one_line(group)}"
            raise DataError(f"{path}, line {line}: puts {names}; keep one row per image")
    return groups
