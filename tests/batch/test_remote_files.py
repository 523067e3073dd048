"""Image files at URLs: in memory, and on an S3 server on loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digit_batches import write_digits
from s3_server import BUCKET, s3_server

from oddlens.batch import remote_files
from oddlens.batch.image_manifest import ImageManifest, list_images, write_manifest
from oddlens.batch.remote_files import list_files, open_filesystem, read, version
from oddlens.batch.shards import ShardScorer
from oddlens.data.image_set import DataSet
from oddlens.data.sources.listing import FOREIGN, HIDDEN, NOT_AN_IMAGE, SIDE_FOLDER
from oddlens.errors import DataError, DataNotFoundError, ImageError, MissingExtraError

CONTENT = {
    "parts/a10.png": b"ten", "parts/a9.png": b"nine", "parts/sub/1.JPG": b"one", "parts/notes.txt": b"text",
    "parts/raw.nef": b"raw", "parts/.trash/1.png": b"old", "parts/__MACOSX/1.png": b"side",
}  # fmt: skip


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system `memory://` with files below /parts."""
    filesystem, _ = open_filesystem("memory://")
    for path, content in CONTENT.items():
        filesystem.pipe(f"/{path}", content)
    yield filesystem
    filesystem.rm("/", recursive=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 file system with an empty bucket."""
    with s3_server():
        yield open_filesystem("s3://")[0]


def test_images_are_listed_in_natural_order_and_the_rest_is_left_out(memory: Any) -> None:
    files, left_out = list_files("memory://parts")
    assert [file.url for file in files] == [
        "memory:///parts/a9.png",
        "memory:///parts/a10.png",
        "memory:///parts/sub/1.JPG",
    ]
    assert [file.size for file in files] == [4, 3, 3]
    assert left_out == {
        HIDDEN: ("memory:///parts/.trash/1.png",),
        SIDE_FOLDER: ("memory:///parts/__MACOSX/1.png",),
        NOT_AN_IMAGE: ("memory:///parts/notes.txt",),
        FOREIGN: ("memory:///parts/raw.nef",),
    }


def test_a_file_is_read_as_long_as_it_is_the_same(memory: Any) -> None:
    file = list_files("memory://parts")[0][0]
    assert read(*file) == b"nine"
    assert read(file.url, None, None) == b"nine"
    assert read(file.url, 5, None) is None
    memory.pipe("/parts/a9.png", b"NINE")
    assert read(*file) is None


def test_a_place_without_images_says_what_is_there(memory: Any) -> None:
    memory.pipe("/empty/notes.txt", b"text")
    with pytest.raises(DataNotFoundError, match=r"contains no images \(left out: 1, not an image"):
        list_files("memory://empty")
    with pytest.raises(DataNotFoundError, match="contains no images"):
        list_files("memory://nowhere")


def test_a_missing_file_is_an_error_of_the_image(memory: Any) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read("memory://parts/none.png", None, None)


def test_a_file_without_bounds_is_not_read(memory: Any) -> None:
    with pytest.raises(ImageError, match="more than the limit"):
        read("memory://parts/a9.png", 10**12, None)


class Flaky:
    """A file system that fails a few times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times = error, times

    def cat_file(self, path: str) -> bytes:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return b"content"


@pytest.mark.parametrize(
    ("error", "times", "is_read"),
    [(TimeoutError("slow"), 3, True), (TimeoutError("slow"), 4, False), (PermissionError("no"), 1, False)],
)
def test_a_server_that_does_not_answer_is_asked_again(
    error: Exception, times: int, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky, waits = Flaky(error, times), list[float]()
    monkeypatch.setattr(remote_files, "open_filesystem", lambda url: (flaky, url))
    monkeypatch.setattr("oddlens.batch.remote_files.time.sleep", waits.append)
    if is_read:
        assert read("s3://b/a.png", None, None) == b"content"
        assert len(waits) == 3
    else:
        with pytest.raises(DataError, match=r"s3://b/a.png: cannot be read .* run the same command again") as raised:
            read("s3://b/a.png", None, None)
        assert not isinstance(raised.value, ImageError), "an unreachable server must not make error rows"
        assert len(waits) == (0 if isinstance(error, PermissionError) else 3)


@pytest.mark.parametrize(("url", "problem"), [("nonsense://a/b", "nonsense"), ("zip://a::s3://b/c.zip", "several")])
def test_urls_that_are_not_understood_are_refused(url: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        list_files(url)


def test_the_extra_is_named_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fsspec.core", None)
        with pytest.raises(MissingExtraError, match=r"oddlens\[batch\]"):
            list_files("s3://bucket")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"ETag": '"abc"', "LastModified": "today"}, "abc"),
        ({"mtime": 12.5}, "12.5"),
        ({"created": datetime.fromtimestamp(12.5, UTC)}, "12.5"),
        ({"name": "a", "size": 3}, None),
    ],
)
def test_a_version_is_the_best_that_the_file_system_tells(info: dict[str, object], expected: str | None) -> None:
    assert version(info) == expected


def test_images_on_s3_score_as_local_files(s3: Any, digits: DataSet, exported: Path, tmp_path: Path) -> None:
    folder = write_digits(digits, tmp_path / "images", 12)
    s3.put(str(folder), f"{BUCKET}/digits", recursive=True)
    scorer = ShardScorer("part.onnx", exported.read_bytes())
    shards = []
    for source in (str(folder), f"s3://{BUCKET}/digits"):
        write_manifest(tmp_path / "m.parquet", list_images(source), source)
        shards += list(ImageManifest(tmp_path / "m.parquet").shards(100))
    local, remote = shards
    assert [Path(name).name for name in remote.files] == [Path(name).name for name in local.files]
    assert all(value is not None for value in remote.versions)
    np.testing.assert_array_equal(scorer(remote).anomaly_score, scorer(local).anomaly_score)
    first, second = (path.removeprefix("s3://") for path in remote.files[:2])
    s3.pipe(first, s3.cat_file(second))
    s3.rm(remote.files[2])
    s3.pipe(f"{BUCKET}/digits/0003.png", b"no image")
    errors = scorer(remote).errors
    assert sorted(errors) == [0, 2, 3]
    assert "has changed" in errors[0]
    assert "does not exist" in errors[2]


def test_a_bucket_that_is_not_there_is_an_error(s3: Any) -> None:
    with pytest.raises(DataError, match="s3://elsewhere/a"):
        list_files("s3://elsewhere/a")
