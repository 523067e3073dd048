"""Manifests: every image in a folder or at a URL, in order, and nothing left out in silence."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digit_batches import write_digits, write_list

from oddlens.batch import image_manifest
from oddlens.batch.image_manifest import NOT_UTF8, ImageManifest, list_images
from oddlens.data.image_set import DataSet
from oddlens.data.sources.listing import NOT_AN_IMAGE
from oddlens.errors import ArtifactError, DataNotFoundError, MissingExtraError, OddlensError, SettingsError


@pytest.fixture
def folder(digits: DataSet, tmp_path: Path) -> Path:
    write_digits(digits, tmp_path / "images/front", 11)
    write_digits(digits, tmp_path / "images/back", 2)
    return tmp_path / "images"


def write(path: Path, /, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_row_has_path_size_and_time_of_change_in_natural_order(folder: Path, tmp_path: Path) -> None:
    (folder / "front/notes.txt").write_text("not an image")
    images = list_images(str(folder))
    rows = pq.read_table(write_list(folder, tmp_path / "m.parquet")).to_pylist()
    assert [row["file"] for row in rows] == [
        *(f"{folder}/back/{i:04}.png" for i in range(2)),
        *(f"{folder}/front/{i:04}.png" for i in range(11)),
    ]
    status = Path(rows[3]["file"]).stat()
    assert rows[3] == {"file": rows[3]["file"], "size": status.st_size, "version": str(status.st_mtime_ns)}
    assert images.left_out == {NOT_AN_IMAGE: (f"{folder}/front/notes.txt",)}


def test_the_same_images_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert (
        write_list(folder, tmp_path / "a.parquet").read_bytes()
        == write_list(folder, tmp_path / "b.parquet").read_bytes()
    )


def test_a_name_that_parquet_cannot_store_is_left_out_with_a_word(folder: Path) -> None:
    name = os.fsencode(folder / "front") + b"/caf\xe9.png"
    os.link(folder / "front/0000.png", name)
    images = list_images(str(folder))
    assert images.left_out == {NOT_UTF8: (os.fsdecode(name),)}
    assert len(images.files) == 13


def test_a_link_that_leads_nowhere_is_listed_to_become_an_error(folder: Path) -> None:
    (folder / "front/0099.png").symlink_to("nowhere.png")
    assert list_images(str(folder)).files[-1] == (f"{folder}/front/0099.png", None, None)


def test_groups_are_those_of_folders_or_of_a_table(folder: Path, tmp_path: Path) -> None:
    manifest = ImageManifest(write_list(folder, tmp_path / "m.parquet", "folder"))
    assert manifest.groups == ("back", "front")
    (shard,) = manifest.shards(100, with_groups=True)
    assert shard.groups == ("back",) * 2 + ("front",) * 11
    (shard,) = manifest.shards(100)
    assert shard.groups == ()


def test_shards_are_all_rows_in_order(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_manifest, "ROWS_PER_GROUP", 3)
    manifest = ImageManifest(write_list(folder, tmp_path / "m.parquet"))
    shards = list(manifest.shards(4))
    assert [(shard.index, shard.start, len(shard)) for shard in shards] == [(0, 0, 4), (1, 4, 4), (2, 8, 4), (3, 12, 1)]
    assert [file for shard in shards for file in shard.files] == [file.url for file in list_images(str(folder)).files]
    assert manifest.n_images == 13


def test_a_list_from_elsewhere_needs_only_the_files(tmp_path: Path) -> None:
    (shard,) = ImageManifest(write(tmp_path / "m.parquet", file=["a.png", "b.png"])).shards(10)
    assert (shard.files, shard.sizes, shard.versions) == (("a.png", "b.png"), (None, None), (None, None))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"path": ["a.png"]}, "needs the column file"),
        ({"file": [1]}, "needs the column file"),
        ({"file": ["a.png"], "size": ["1"]}, "size .int64."),
        ({"file": pa.array([], pa.string())}, "lists no images"),
    ],
)
def test_other_tables_are_refused(columns: dict[str, object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=problem):
        ImageManifest(write(tmp_path / "m.parquet", **columns))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a.png"]), pa.array(["b.png"])], ["file", "file"])
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(ArtifactError, match="each once"):
        ImageManifest(tmp_path / "m.parquet")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_small_file_with_gigabytes_of_names_takes_no_memory(kind: pa.DataType, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"file": repeated("a" * 2**16, 65_536, kind)}), path, store_schema=False)
    assert path.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match="has a file of 65,536 bytes, and at most 8,192"):
        ImageManifest(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def repeated(text: str, count: int, kind: pa.DataType) -> pa.Array:
    """A column of equal texts, which Parquet stores once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text], kind))


def test_a_row_group_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.parquet", file=[f"{i}.png" for i in range(100)])
    assert ImageManifest(path).n_images == 100
    monkeypatch.setattr(image_manifest, "MAX_GROUP_BYTES", 500)
    with pytest.raises(ArtifactError, match=r"row group 0 has .* at most 500 are read; write it in groups"):
        ImageManifest(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_text("file\na.png\n")
    with pytest.raises(ArtifactError, match="is not a Parquet file"):
        ImageManifest(tmp_path / "m.parquet")
    with pytest.raises(DataNotFoundError, match="make it with `oddlens manifest"):
        ImageManifest(tmp_path / "none.parquet")


def test_a_row_without_a_file_or_group_is_an_error(tmp_path: Path) -> None:
    manifest = ImageManifest(write(tmp_path / "m.parquet", file=["a.png", None], group=["", "g"]))
    with pytest.raises(ArtifactError, match="row 1 has no file"):
        list(manifest.shards(10))
    manifest = ImageManifest(write(tmp_path / "m.parquet", file=["a.png", "b.png"], group=["g", ""]))
    with pytest.raises(ArtifactError, match="row 1 has no group"):
        list(manifest.shards(10, with_groups=True))


def test_every_damage_is_an_error_or_changes_no_row(folder: Path, tmp_path: Path) -> None:
    path = write_list(folder, tmp_path / "m.parquet")
    content = path.read_bytes()
    (expected,) = ImageManifest(path).shards(100)
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            shards = list(ImageManifest(path).shards(100))
        except OddlensError:
            continue
        assert shards == [expected], place
    for length in range(0, len(content), 29):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError):
            ImageManifest(path)


def test_the_extra_is_named_where_it_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[batch\]'"):
        write_list(folder, tmp_path / "m.parquet")


def test_grouping_that_is_not_understood_is_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="--group-by colour"):
        list_images(str(folder), "colour")
