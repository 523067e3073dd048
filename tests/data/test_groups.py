"""Images are grouped by their folder or by a column of a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddlens.data.groups import assign_groups
from oddlens.data.image_set import ImageSet
from oddlens.errors import DataError, DataNotFoundError, OddlensError, SettingsError


def write_images(folder: Path, *names: str) -> ImageSet:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)
    return ImageSet.from_files([str(folder / name) for name in names])


def test_images_are_grouped_by_folder(tmp_path: Path) -> None:
    images = assign_groups(write_images(tmp_path, "left/1.png", "right/1.png", "right/2.png"), "folder")
    assert images.groups == ("left", "right", "right")
    assert images.subset([2, 0]).groups == ("right", "left")
    assert images.grouped_by == images.subset([0]).grouped_by == "folder"
    assert assign_groups(write_images(tmp_path, "left/1.png"), "folder").groups == ("left",)
    with pytest.raises(DataError, match=r"array\[0\]: is not a file, so it has no folder"):
        assign_groups(ImageSet.from_array(np.zeros((2, 8, 8), dtype=np.uint8)), "folder")


def test_a_csv_file_names_the_group_of_each_image(tmp_path: Path) -> None:
    images = write_images(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    table = tmp_path / "cameras.csv"
    table.write_text(f"file,camera\nb/../a/1.png,left\n{tmp_path}/b/1.png,right\n2.png, left \n")
    grouped = assign_groups(images, f"{table}:camera")
    assert grouped.groups == ("left", "right", "left")  # the last by its file name
    assert grouped.grouped_by == "column camera"
    table.write_text("file,camera\na/1.png,left\nelsewhere/1.png,right\nelsewhere/2.png,left\n")
    with pytest.raises(DataError, match=r"has no row for .*b/1\.png"):  # another folder's 1.png is another image
        assign_groups(images, f"{table}:camera")
    table.write_text("file,camera\n1.png,left\n2.png,left\n")
    with pytest.raises(DataError, match=r"has no row for .*a/1\.png"):  # two images have this name
        assign_groups(images, f"{table}:camera")


@pytest.mark.parametrize("name", ["cameras.csv", "CAMERAS.CSV", "cameras.tsv", "cameras.2026.txt"])
def test_a_table_from_a_spreadsheet_on_another_system_names_the_groups(tmp_path: Path, name: str) -> None:
    decomposed = "Ma\u0308rz.png"  # as macOS writes it
    images = write_images(tmp_path, "a/1.png", f"b/{decomposed}", "b/2.png", "b/3.png")
    table = tmp_path / name
    text = f".\\a\\1.png;left\nb\\M\u00e4rz.png;right\n./b/2.png;left\n{tmp_path}/b/3.png;right\n"
    table.write_text(f"File;Camera: no. 1\n{text}", encoding="utf-16")
    assert assign_groups(images, f"{table}:camera: no. 1").groups == ("left", "right", "left", "right")


def test_a_name_that_was_read_in_another_encoding_is_refused_with_the_fix(tmp_path: Path) -> None:
    images, table = write_images(tmp_path, "M\u00e4rz.png"), tmp_path / "cameras.csv"
    table.write_bytes("file,camera\nM\u00e4rz.png,left\n".encode("cp1252"))
    assert assign_groups(images, f"{table}:camera").groups == ("left",)
    table.write_bytes("file,camera\nM\u00e4rz.png,left\n".encode("cp850"))
    with pytest.raises(DataError, match=r"has no row for .*; add a row with its path, or save the table as UTF-8"):
        assign_groups(images, f"{table}:camera")


@pytest.mark.parametrize(
    ("text", "by", "error", "match"),
    [
        ("file,camera\n", "camera", SettingsError, "must be 'folder' or FILE.csv:COLUMN"),
        ("file,camera\n", "{}:", SettingsError, "must be 'folder' or"),
        (
            "file,camera\n",
            "nowhere.csv:camera",
            DataNotFoundError,
            "does not exist; give a CSV file with the columns",
        ),
        (
            "file,camera\n1.png,left\n",
            "{}:lamp",
            DataError,
            r"'lamp' \(its columns: file, camera\)",
        ),
        ("name,camera\n1.png,left\n", "{}:camera", DataError, "has no column 'file'"),
        ("file,camera\n1.png,\n", "{}:camera", DataError, "line 2: has no value for file or camera"),
        ("file,camera\n1.png,left\n1.png,right\n", "{}:camera", DataError, "line 3: puts 1.png into a second group"),
        ("file,camera\n2.png,left\n", "{}:camera", DataError, "has no row for .*1.png in column camera"),
        ("file,camera\n\udc81,x\n", "{}:camera", DataError, "is not text in UTF-8, UTF-16 or Windows-1252"),
        ("file,camera\n1.png,left\n./1.png,right\n", "{}:camera", DataError, "line 3: puts ./1.png into a second"),
    ],
)
def test_errors_in_a_csv_file_of_groups_name_the_line(
    text: str, by: str, error: type[OddlensError], match: str, tmp_path: Path
) -> None:
    images, table = write_images(tmp_path, "1.png"), tmp_path / "cameras.csv"
    table.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(error, match=match):
        assign_groups(images, by.format(table))
