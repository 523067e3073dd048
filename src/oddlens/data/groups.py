"""Which group an image belongs to: the folder that it lies in, or what a CSV file says of it."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from oddlens.data.image_set import ImageSet
from oddlens.errors import DataError, DataNotFoundError, SettingsError

FOLDER = "folder"
FILE = "file"  # the column that names an image


def assign_groups(images: ImageSet, by: str) -> ImageSet:
    """The same images, each with its group.

    `by` is "folder", the name of the folder that a file lies in, or "FILE.csv:COLUMN", what that column says of the
    image that the column `file` names: by its path from here or from the CSV file, or, where a line has a bare name, by
    that name if only one of the images has it.

    Raises:
        SettingsError: `by` is neither.
        DataNotFoundError: there is no such CSV file.
        DataError: it says nothing of an image; or images of no file are to be grouped by folder.
    """
    if by == FOLDER:
        loose = [name for name, image in zip(images.names, images.images, strict=True) if not isinstance(image, str)]
        if loose:
            raise DataError(f"{loose[0]}: lies in no folder; group images of arrays by FILE.csv:COLUMN")
        groups = tuple(Path(os.path.abspath(name)).parent.name or "/" for name in images.names)  # noqa: PTH100 - resolves ".."
        return replace(images, groups=groups, grouped_by=FOLDER)
    table, _, column = by.rpartition(":")
    if not table.endswith(".csv") or not column:
        raise SettingsError(f"--group-by {by}: is neither 'folder' nor FILE.csv:COLUMN")
    path = Path(table)
    known = read_groups(path, column)
    placed = {os.path.abspath(path.parent / name): group for name, group in known.items()}  # noqa: PTH100 - as above
    placed |= {os.path.abspath(name): group for name, group in known.items()}  # noqa: PTH100 - as above
    bare = {name: group for name, group in known.items() if os.sep not in name}
    alike = Counter(Path(name).name for name in images.names)

    def group_of(name: str) -> str:
        last = Path(name).name
        found = placed.get(os.path.abspath(name)) or (bare.get(last) if alike[last] == 1 else None)  # noqa: PTH100 - as above
        if found is None:
            raise DataError(f"{path}: says nothing of {name} in column {column}; add a line with its path")
        return found

    return replace(images, groups=tuple(map(group_of, images.names)), grouped_by=f"column {column}")


def read_groups(path: Path, column: str) -> dict[str, str]:
    """What the column `column` of a CSV file says of each file that the column `file` names.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: it is no such CSV file, or a line lacks one of the two.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            lines = list(reader)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: no such file; give a CSV file with the columns {FILE},{column}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
    for needed in (FILE, column):
        if needed not in columns:
            raise DataError(f"{path}: has no column '{needed}'; it has: {', '.join(columns) or '(none)'}")
    groups: dict[str, str] = {}
    for number, line in enumerate(lines, 2):
        name, group = (str(line[key] or "").strip() for key in (FILE, column))
        if not name or not group:
            raise DataError(f"{path}, line {number}: lacks {FILE} or {column}; fill it in")
        if groups.setdefault(name, group) != group:
            raise DataError(f"{path}, line {number}: puts {name} into a second group, {group}; leave one line an image")
    return groups
