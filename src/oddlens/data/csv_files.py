"""Read the CSV files that users write."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from oddlens.errors import DataError, DataNotFoundError


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read the given columns of a CSV file with a header, UTF-8 with or without a byte order mark.

    Returns the line number in the file and the values by column of every row; a missing value is "". Blank lines are
    skipped, and so are other columns.

    Raises:
        DataNotFoundError: the file does not exist.
        DataError: the file is not CSV in UTF-8, or lacks one of the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            for column in columns:
                if column not in header:
                    raise DataError(
                        f"{path}: has no column '{column}' (its columns: {', '.join(header) or 'none'}); "
                        f"it needs {', '.join(columns)}"
                    )
            return [(reader.line_num, {column: row[column] or "" for column in columns}) for row in reader]
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{path}: does not exist; give a CSV file with the columns {', '.join(columns)}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
