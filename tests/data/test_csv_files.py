"""CSV files of any country are read by column, and errors name the file and the fix."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from pathlib import Path

import pytest

from oddlens.data.csv_files import normalized_path, read_rows, spellings
from oddlens.errors import DataError, DataNotFoundError

FILE_AND_CAMERA = [(2, {"file": "März, 1.png", "camera": "links"}), (3, {"file": "2.png", "camera": ""})]


def test_rows_have_their_line_numbers_and_only_the_requested_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufefffile,note,camera\na.png,x,left\n\n"b, c.png",y\n', encoding="utf-8")
    assert read_rows(path, ("camera", "file")) == [
        (2, {"camera": "left", "file": "a.png"}),
        (4, {"camera": "", "file": "b, c.png"}),
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_separates_the_required_columns(
    tmp_path: Path, delimiter: str, ending: str
) -> None:
    path = tmp_path / "table.txt"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=ending)
        writer.writerows([["file", "camera", "note"], ["März, 1.png", "links", "3,5; a|b"], ["2.png", "", ""]])
    assert read_rows(path, ("file", "camera")) == FILE_AND_CAMERA


@pytest.mark.parametrize(
    "content",
    [
        'file;camera\n"März, 1.png";links\n2.png;\n'.encode("cp1252"),
        'file;camera\n"März, 1.png";links\n2.png;\n'.encode("utf-8-sig"),
        'file\tcamera\r\n"März, 1.png"\tlinks\r\n2.png\t\r\n'.encode("utf-16"),  # Excel's "Unicode text"
        codecs.BOM_UTF16_BE + 'file,camera\n"März, 1.png",links\n2.png,\n'.encode("utf-16-be"),
        'file,camera\n"März, 1.png",links\n2.png,\n'.encode("utf-16-le"),
        'file,camera\n"März, 1.png",links\n2.png,\n'.encode("utf-16-be"),
    ],
    ids=["cp1252", "utf-8-sig", "utf-16", "utf-16-be mark", "utf-16-le", "utf-16-be"],
)
def test_the_encodings_of_spreadsheets_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert read_rows(path, ("file", "camera")) == FILE_AND_CAMERA


@pytest.mark.parametrize(
    "text",
    [
        " File ;CAMERA\nMärz, 1.png;links\n2.png;\n",
        "file;camera;;\nMärz, 1.png;links;;\n2.png;;;\n;;;\n   ;\n",
        "file;note;camera\nMärz, 1.png;3,5;links\n2.png\n",
        "FILE;file;camera\nx;März, 1.png;links\nx;2.png;\n",
        '"file"; "camera"\n"März, 1.png"; "links"\n"2.png"; ""\n',
        "a,b;file;camera;file,camera\n1;März, 1.png;links\n2;2.png;\n",
    ],
    ids=[
        "case and spaces",
        "empty columns and rows",
        "decimal comma",
        "exact name first",
        "all quoted",
        "commas in names",
    ],
)
def test_what_spreadsheets_add_does_not_matter(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    assert read_rows(path, ("file", "camera")) == FILE_AND_CAMERA


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_first_line_for_excel_names_the_delimiter(tmp_path: Path, first: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{first}\r\nfile;camera\r\na.png;left\r\n", newline="")
    assert read_rows(path, ("file", "camera")) == [(3, {"file": "a.png", "camera": "left"})]
    path.write_text("sep=^\nfile^camera\n\na.png^left\n")
    assert read_rows(path, ("file", "camera")) == [(4, {"file": "a.png", "camera": "left"})]


def test_empty_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n;;\nfile;camera\na.png;left\n")
    assert read_rows(path, ("file", "camera")) == [(4, {"file": "a.png", "camera": "left"})]


def spreadsheet() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": has no column 'file' (its columns: none); it needs file, camera"),
        (b"file,lens\na.png,x\n", ": has no column 'camera' (its columns: file, lens); it needs file, camera"),
        (
            b"file;Cameras;lens\na.png;x;y\n",
            ": has no column 'camera' (its columns: file, Cameras, lens); rename 'Cameras' if it is meant; it needs",
        ),
        (b"Datei;Kamera\n", ": has no column 'file' (its columns: Datei, Kamera); it needs file, camera"),
        (b'"fi\nle";camera\n', ": has no column 'file' (its columns: fi le, camera); rename 'fi le' if it is meant"),
        (
            b"file," + b",".join(b"c%d" % i for i in range(25)) + b"\n",
            "c18 and 6 more); it needs",
        ),
        (b"file,camera,file\na.png,x,b.png\n", ": has 2 columns 'file' (its columns: file, camera, file); keep one"),
        (b"File;FILE;camera\na.png;x;y\n", ": has 2 columns 'file' (its columns: File, FILE, camera); keep one"),
        (b"file,camera\na.png,x\na, b.png,x\n", ", line 3: has 3 values for 2 columns; put quotes around a value that"),
        (b'file,camera\n"a.png,x\nb.png,y\n', ", line 3: is not CSV (unexpected end of data); check its quotes"),
        (b'"file,camera\na.png,x\n', ", line 2: is not CSV (unexpected end of data); check its quotes"),
        (b"file,camera\n" + b"x" * 200_000 + b",left\n", ", line 2: is not CSV (field larger than field limit"),
        (b"file,camera\n\x81,x\n", ": is not text in UTF-8, UTF-16 or Windows-1252; export the table as CSV"),
        (b"file,camera\na\0b.png,x\n", ": is not text in"),
        (codecs.BOM_UTF16_LE + b"f", ": is not text in"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ": is not text in"),
        (spreadsheet(), ": is a spreadsheet (.xlsx or .ods), not text; export it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", ": is a spreadsheet (.xls), not text; export it as CSV"),
        (b"\n <html><table><tr><td>file", ": is HTML or XML, not CSV; export the table as CSV"),
        (codecs.BOM_UTF8 + b"<?xml version='1.0'?>", ": is HTML or XML, not CSV; export the table as CSV"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_such_a_csv_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}.*{re.escape(message)}") as raised:
        read_rows(path, ("file", "camera"))
    assert "\n" not in str(raised.value)


def test_the_error_for_a_missing_file_names_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no\.csv: does not exist; give a CSV file with the columns a, b$"):
        read_rows(tmp_path / "no.csv", ("a", "b"))


def test_a_folder_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as CSV .*Is a directory"):
        read_rows(tmp_path, ("file",))


def test_a_file_may_be_written_as_on_another_system() -> None:
    composed, decomposed = "M\u00e4rz/1.png", "Ma\u0308rz/1.png"
    assert spellings("a/1.png") == ["a/1.png"]
    assert spellings("Ma\u0308rz\\1.png") == ["Ma\u0308rz\\1.png", decomposed, "M\u00e4rz\\1.png", composed]
    assert normalized_path("./a\\..\\Ma\u0308rz/1.png") == composed
