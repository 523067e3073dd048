"""Which group an image belongs to: the folder that it lies in, or what a CSV file says of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from oddlens.datasets.image_set import ImageSet
from oddlens.errors import DataError, DataNotFoundError, SettingsError

FOLDER = "folder"
FILE = "file"  # the column that names an image


def grouped(images: ImageSet, by: str) -> ImageSet:
    """The same images, each with its group.

    `by` is "folder", the name of the folder that a file lies in, or "FILE.csv:COLUMN", what that column says of the
    image that the column `file` names: by its path as it is written here, by its path from the CSV file on, or by its
    name alone where that tells it from all others.

    Raises:
        SettingsError: `by` is neither.
        DataNotFoundError: there is no such CSV file.
        DataError: it says nothing of an image, or two things; or images of no file are to be grouped by folder.
    """
    if by == FOLDER:
        loose = [name for name, image in zip(images.names, images.images, strict=True) if not isinstance(image, Path)]
        if loose:
            raise DataError(f"{loose[0]}: lies in no folder; group images of arrays by FILE.csv:COLUMN")
        return replace(images, groups=tuple(Path(name).absolute().parent.name for name in images.names))
    table, _, column = by.rpartition(":")
    if not table.endswith(".csv") or not column:
        raise SettingsError(f"--group-by {by}: is neither 'folder' nor FILE.csv:COLUMN")
    known = read_groups(Path(table), column)
    return replace(images, groups=tuple(known.of(name) for name in images.names))


def recorded(by: str) -> str:
    """What a detector remembers of `by`: "folder", or the column without the file, which is another for each lot."""
    return by if by == FOLDER else f"column {by.rpartition(':')[2]}"


class Groups:
    """What a CSV file says of images."""

    def __init__(self, path: Path, column: str, groups: dict[str, str]) -> None:
        self.path, self.column = path, column
        self.by_path = {str((path.parent / name).absolute()): group for name, group in groups.items()} | groups
        bare: dict[str, str | None] = {}
        for name, group in groups.items():
            last = Path(name).name
            bare[last] = group if bare.get(last, group) == group else None
        self.by_name = bare

    def of(self, name: str) -> str:
        """The group of an image."""
        found = (
            self.by_path.get(name) or self.by_path.get(str(Path(name).absolute())) or self.by_name.get(Path(name).name)
        )
        if found is None:
            raise DataError(f"{self.path}: says nothing of {name} in column {self.column}, or two things; add a line")
        return found


def read_groups(path: Path, column: str) -> Groups:
    """The columns `file` and `column` of a CSV file.

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
    return Groups(path, column, groups)
