"""CSV files are read by column, and errors name the file and the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oddlens.data.csv_files import read_rows
from oddlens.errors import DataError, DataNotFoundError


def test_rows_have_their_line_numbers_and_only_the_requested_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufefffile,note,camera\na.png,x,left\n\n"b, c.png",y\n', encoding="utf-8")
    assert read_rows(path, ("camera", "file")) == [
        (2, {"camera": "left", "file": "a.png"}),
        (4, {"camera": "", "file": "b, c.png"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column 'file' (its columns: none); it needs file, camera"),
        (b"file,lens\na.png,x\n", "has no column 'camera' (its columns: file, lens); it needs file, camera"),
        (b"file,camera\n\xff,x\n", "cannot be read as CSV ('utf-8' codec"),
        (b"file,camera\n" + b"x" * 200_000 + b",left\n", "cannot be read as CSV (field larger than"),
    ],
)
def test_a_file_that_is_not_such_a_csv_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")) as raised:
        read_rows(path, ("file", "camera"))
    assert "\n" not in str(raised.value)


def test_the_error_for_a_missing_file_names_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no\.csv: does not exist; give a CSV file with the columns a, b$"):
        read_rows(tmp_path / "no.csv", ("a", "b"))


def test_a_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as CSV .*Is a directory"):
        read_rows(tmp_path, ("file",))
