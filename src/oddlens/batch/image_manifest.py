"""Manifests: Parquet files that list the images of a batch, one row each, with what shows that an image changed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from oddlens.batch import remote_files
from oddlens.batch.remote_files import RemoteFile
from oddlens.batch.shards import Shard
from oddlens.data.groups import assign_groups
from oddlens.data.image_set import ImageSet, LeftOut
from oddlens.data.open import open_images
from oddlens.errors import ArtifactError, DataNotFoundError, MissingExtraError
from oddlens.io.atomic import atomic_write
from oddlens.io.digests import digest
from oddlens.io.text import as_text, first_line, list_names

COLUMNS = {  # and the types that other programs may give them in Parquet
    "file": ("string", "large_string"),
    "size": ("int64",),
    "version": ("string", "large_string"),
    "group": ("string", "large_string"),
}
ROWS_PER_GROUP = 65_536
ROWS_PER_BATCH = 16_384  # that are read at a time
MAX_TEXT_BYTES = 8192  # of a name: twice the longest path of Linux
MAX_GROUP_BYTES = 2**29  # of a row group, decompressed: a million names of 500 bytes
NOT_UTF8 = "a name that is not UTF-8; rename it"
METADATA_KEY = b"oddlens"


@dataclass(frozen=True)
class ImageList:
    """Images that a manifest lists: in order, with their groups where there are any, and what was left out and why."""

    files: list[RemoteFile]
    groups: tuple[str, ...]
    left_out: LeftOut

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `COLUMNS` for each image."""
        for file, group in zip(self.files, self.groups or repeat(None), strict=False):
            yield (*file, group)


def require_pyarrow() -> None:
    """Check that Parquet files can be read and written.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("a batch of images", "batch") from error


def list_images(source: str, group_by: str | None = None) -> ImageList:
    """The images below a folder or a URL, in natural order; `group_by` as for `assign_groups`.

    Raises:
        DataNotFoundError: there are none, or nothing is there.
        DataError: a folder has masks among its images, a URL cannot be listed, or an image has no group.
        SettingsError: `group_by` is not understood.
        MissingExtraError: the packages for such URLs are not installed.
    """
    if remote_files.is_url(source):
        files, left_out = remote_files.list_files(source)
    else:
        images = open_images([source])
        foreign = [name for name in images.names if name != as_text(name)]
        files = [local_file(name) for name in images.names if name == as_text(name)]
        left_out = {**images.left_out, **({NOT_UTF8: tuple(foreign)} if foreign else {})}
    groups: tuple[str, ...] = ()
    if group_by is not None:
        groups = assign_groups(ImageSet.from_files([file.url for file in files]), group_by).groups
    return ImageList(files, groups, left_out)


def local_file(name: str) -> RemoteFile:
    """A file of this machine; its version is the time of its last change, in nanoseconds."""
    try:
        status = os.stat(name)  # noqa: PTH116 - of a million files
    except OSError:  # it is listed, and will be an error row
        return RemoteFile(name, None, None)
    return RemoteFile(name, status.st_size, str(status.st_mtime_ns))


def write_manifest(path: Path, images: ImageList, source: str) -> None:
    """Write a manifest; the same list gives the same bytes.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OddlensError: the file cannot be written.
    """
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.int64(), pa.string(), pa.string())
    fields = [field for field in zip(COLUMNS, types, strict=True) if field[0] != "group" or images.groups]
    metadata = {"source": as_text(source), "rows": digest(map(row_bytes, images.rows()))}
    schema = pa.schema(fields, {METADATA_KEY: json.dumps(metadata)})
    rows = images.rows()
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        while part := list(islice(rows, ROWS_PER_GROUP)):
            columns = list(zip(*part, strict=True))
            writer.write_table(pa.table(columns[: len(fields)], schema))


def row_bytes(row: tuple[Any, ...]) -> bytes:
    """A row, for digests."""
    return f"{row!r}\n".encode()


class ImageManifest:
    """A manifest that is read shard by shard, in constant memory, and once as a whole to see that it is not damaged.

    It needs the column `file`; `size` and `version` are compared with the images where they are not null, and `group`
    is for detectors with a threshold for each group.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is not a manifest, or lists no images.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        require_pyarrow()
        self.path = path
        if not path.is_file():
            raise DataNotFoundError(f"{path}: does not exist; make it with `oddlens manifest FOLDER -o {path}`")
        with self._open() as file:
            metadata = file.schema_arrow.metadata or {}
            fields = [(field.name, str(field.type)) for field in file.schema_arrow]
        types = dict(fields)
        self.columns = [name for name in COLUMNS if name in types]
        count = sum(name in COLUMNS for name, _ in fields)
        if "file" not in types or count > len(self.columns) or any(types[n] not in COLUMNS[n] for n in self.columns):
            listed = list_names([f"{name!r} ({kind})" for name, kind in fields])
            raise ArtifactError(
                f"{path}: is not a manifest of images: it needs the column file (string), may have size (int64), "
                f"version and group (string), each once, and has {listed}; make it with `oddlens manifest`"
            )
        self.n_images, groups = 0, set[str]()
        self.digest = digest(map(row_bytes, self._count(groups)))
        self.groups = tuple(sorted(groups))  # of all images, each once
        self._check_rows(metadata.get(METADATA_KEY))
        if not self.n_images:
            raise ArtifactError(f"{path}: lists no images; make it again with `oddlens manifest`")

    def _count(self, groups: set[str]) -> Iterator[tuple[Any, ...]]:
        """Yield all rows, and count them and their groups."""
        for rows in self._batches():
            self.n_images += len(rows)
            groups.update(row[3] for row in rows if row[3])
            yield from rows

    def _check_rows(self, metadata: bytes | None) -> None:
        """Compare the rows with what `write_manifest` wrote; other programs write no digest."""
        with contextlib.suppress(ValueError, AttributeError):
            if metadata is None or json.loads(metadata).get("rows") == self.digest:
                return
        raise ArtifactError(f"{self.path}: is damaged, or was changed; make it again with `oddlens manifest`")

    def _open(self, dictionaries: Sequence[str] = ()) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path, page_checksum_verification=True, read_dictionary=dictionaries)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ArtifactError(f"{self.path}: is not a Parquet file ({first_line(error)})") from error

    def shards(self, n_images: int, folder: str = "", with_groups: bool = False) -> Iterator[Shard]:
        """Cut the manifest into shards of `n_images`, the last of which may be smaller.

        `folder` is where relative paths begin.

        Raises:
            ArtifactError: it is damaged, or a row has no file or no group.
        """
        rows, start = chain.from_iterable(self._batches()), 0
        while part := list(islice(rows, n_images)):
            yield self._shard(start // n_images, start, part, folder, with_groups)
            start += len(part)

    def _batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """Rows of the manifest, some at a time: file, size, version, group."""
        import pyarrow as pa

        texts = [name for name in self.columns if name != "size"]
        with self._open(dictionaries=texts) as file:
            self._check_sizes(file.metadata)
            try:
                for batch in file.iter_batches(ROWS_PER_BATCH, columns=self.columns):
                    values = {name: self._values(name, batch.column(name)) for name in self.columns}
                    empty = [None] * batch.num_rows
                    columns = [values.get(name, empty) for name in COLUMNS]
                    yield list(zip(*columns, strict=True))
            except (pa.ArrowException, OSError, ValueError) as error:  # the last of text that is not UTF-8
                raise ArtifactError(f"{self.path}: is damaged ({first_line(error)}); make it again") from error

    def _check_sizes(self, metadata: Any) -> None:
        """Refuse what would be too large once it is decompressed."""
        for number in range(metadata.num_row_groups):
            size = metadata.row_group(number).total_byte_size  # its columns' sizes abort the process in damaged files
            if size > MAX_GROUP_BYTES:
                raise ArtifactError(
                    f"{self.path}: row group {number} has {size:,} bytes, and at most {MAX_GROUP_BYTES:,} are read; "
                    f"write it in groups of {ROWS_PER_GROUP:,} rows, or make it again with `oddlens manifest`"
                )

    def _values(self, name: str, column: Any) -> list[Any]:
        """The values of a column; texts come as a dictionary, which a small file cannot make large by repetition."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_dictionary(column.type):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            if longest > MAX_TEXT_BYTES:
                raise ArtifactError(
                    f"{self.path}: has a {name} of {longest:,} bytes, and at most {MAX_TEXT_BYTES:,} are read; make it "
                    "again with `oddlens manifest`"
                )
            column = column.dictionary_decode()
        values: list[Any] = column.to_pylist()
        return values

    def _shard(self, index: int, start: int, rows: list[tuple[Any, ...]], folder: str, with_groups: bool) -> Shard:
        files, sizes, versions, groups = zip(*rows, strict=True)
        for name, values in (("file", files), *((("group", groups),) if with_groups else ())):
            if not all(values):
                row = start + next(i for i, value in enumerate(values) if not value)
                raise ArtifactError(f"{self.path}: row {row} has no {name}; make it again with `oddlens manifest`")
        return Shard(index, start, files, sizes, versions, groups if with_groups else (), folder)
