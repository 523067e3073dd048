"""Read the CSV files that users write, as spreadsheets of all countries save them."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oddlens.errors import DataError, DataNotFoundError
from oddlens.io.text import from_cell, list_names, one_line

DELIMITERS = (",", ";", "\t", "|")
MAX_NAMES = 20  # names of columns in a message

_SPREADSHEETS = ((b"PK\3\4", "a spreadsheet (.xlsx or .ods)"), (b"\xd0\xcf\x11\xe0", "a spreadsheet (.xls)"))
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SEP_LINE = re.compile(r'"?sep=(.)"?[\r\n]', re.IGNORECASE)  # how Excel is told the delimiter


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read the given columns of a CSV file with a header.

    The delimiter is the one of `DELIMITERS` by which the header has these columns, or that of a first line "sep=;".
    Case and spaces around the names do not matter. Text is UTF-8, UTF-16, or else Windows-1252.

    Returns the line number in the file and the values by column of every row, without spaces around them; a missing
    value is "". Empty rows are skipped, and so are other columns.

    Raises:
        DataNotFoundError: the file does not exist.
        DataError: the file is not CSV, lacks one of the columns or has it twice, or a row has more values than the
            header has columns.
    """
    text = _read_text(path, columns)
    sep_line = _SEP_LINE.match(text)
    delimiters = (sep_line[1],) if sep_line else DELIMITERS
    headers = {delimiter: _header(text, delimiter, sep_line is not None) for delimiter in delimiters}
    delimiter = max(headers, key=lambda name: (sum(bool(_find(headers[name], c)) for c in columns), len(headers[name])))
    rows, reader = [], _reader(text, delimiter)
    try:
        content = _content(reader, sep_line is not None)
        header = next(content, [])
        positions = {column: _position(path, header, column, columns) for column in columns}
        for cells in content:
            if any(cells[len(header) :]):
                raise DataError(
                    f"{path}, line {reader.line_num}: has {len(cells)} values for {len(header)} columns; put quotes "
                    f"around a value that contains {delimiter!r}, or give every column a name"
                )
            cells += [""] * (len(header) - len(cells))
            rows.append((reader.line_num, {column: cells[i] for column, i in positions.items()}))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV ({error}); check its quotes") from error
    return rows


def spellings(name: str) -> list[str]:
    r"""How a file may be written that a table names: as it is, with slashes for backslashes, in each Unicode form.

    >>> spellings(r"parts\1.png")
    ['parts\\1.png', 'parts/1.png']
    """
    ways = (name, name.replace("\\", "/"))
    return list(dict.fromkeys([*ways, *(unicodedata.normalize(form, way) for form in ("NFC", "NFD") for way in ways)]))


def normalized_path(name: str) -> str:
    r"""A path in the one form that all its spellings share.

    >>> normalized_path(r".\parts\1.png")
    'parts/1.png'
    """
    return os.path.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def _read_text(path: Path, columns: Sequence[str]) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path}: does not exist; give a CSV file with the columns {', '.join(columns)}"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read as CSV ({error.strerror}); give a CSV file") from error
    for signature, kind in _SPREADSHEETS:
        if data.startswith(signature):
            raise DataError(f"{path}: is {kind}, not text; export it as CSV")
    encodings = [name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)]
    if not encodings and 0 in data[:2]:
        encodings = ["utf-16-be" if data[0] == 0 else "utf-16-le"]
    for encoding in encodings or ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if text.lstrip().startswith("<"):
            raise DataError(f"{path}: is HTML or XML, not CSV; export the table as CSV")
        return text
    raise DataError(f"{path}: is not text in UTF-8, UTF-16 or Windows-1252; export the table as CSV in UTF-8")


def _reader(text: str, delimiter: str) -> Any:  # the type of csv.reader has no public name
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)


def _content(reader: Iterator[list[str]], has_sep_line: bool) -> Iterator[list[str]]:
    """The rows that are not empty, without spaces around values and our quotes before formulas; first the header."""
    if has_sep_line:
        next(reader)
    for row in reader:
        cells = [from_cell(cell.strip()) for cell in row]
        if any(cells):
            yield cells


def _header(text: str, delimiter: str, has_sep_line: bool) -> list[str]:
    try:
        return next(_content(_reader(text, delimiter), has_sep_line), [])
    except csv.Error:
        return []


def _find(header: Sequence[str], column: str) -> list[int]:
    """Where a column is: under exactly this name, or else under one that differs in case and spaces only."""
    exact = [i for i, name in enumerate(header) if name == column]
    return exact or [i for i, name in enumerate(header) if _key(name) == _key(column)]


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _position(path: Path, header: Sequence[str], column: str, columns: Sequence[str]) -> int:
    """The position of a column in the header.

    Raises:
        DataError: it has no such column, or several.
    """
    positions = _find(header, column)
    if len(positions) == 1:
        return positions[0]
    names = [one_line(name) for name in header if name]
    listed = list_names(names, MAX_NAMES)
    if positions:
        raise DataError(f"{path}: has {len(positions)} columns '{column}' (its columns: {listed}); keep one of them")
    near = difflib.get_close_matches(_key(column), [_key(name) for name in names], n=1)
    hint = next((f"rename '{name}' if it is meant; " for name in names if [_key(name)] == near), "")
    raise DataError(
        f"{path}: has no column '{column}' (its columns: {listed or 'none'}); {hint}it needs {', '.join(columns)}"
    )
