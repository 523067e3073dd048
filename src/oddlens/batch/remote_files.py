"""Image files at URLs, through fsspec: listed, recognized when they change, read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from oddlens.data.image_header import IMAGE_SUFFIXES
from oddlens.data.image_set import LeftOut
from oddlens.data.sources import listing
from oddlens.errors import DataError, ImageError, MissingExtraError
from oddlens.io.text import first_line

VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")  # of fsspec, the best one first
RETRY_SECONDS = (0.5, 2.0, 8.0)  # between the tries to read from a server that does not answer
MAX_BYTES = 2**30  # of an image file


class RemoteFile(NamedTuple):
    """A file at a URL."""

    url: str
    size: int | None  # bytes
    version: str | None


def is_url(name: str) -> bool:
    """Whether a name is a URL instead of a path."""
    return "://" in name


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        MissingExtraError: the packages for such URLs are not installed.
        DataError: there are no such URLs, or it joins several.
    """
    if "::" in url:
        raise DataError(f"{url}: several addresses in one (::) are not supported; unpack archives first")
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingExtraError(f"{url}: reading from this address", "batch") from error
    except ValueError as error:
        raise DataError(f"{url}: {first_line(error)}; name a folder, or a URL such as s3://bucket/folder") from error


def version(info: Mapping[str, Any]) -> str | None:
    """What changes whenever a file changes: its ETag, or the time of its last change; None where neither is told."""
    value = next((info[key] for key in VERSION_KEYS if info.get(key)), None)
    if isinstance(value, datetime):  # a listing may have the same time in seconds
        value = value.timestamp()
    return None if value is None else str(value).strip('"')


def list_files(url: str) -> tuple[list[RemoteFile], LeftOut]:
    """The image files below a URL, in natural order, and what is left out by the reason why.

    Raises:
        DataNotFoundError: there are none.
        DataError: the place cannot be reached.
        MissingExtraError: as `open_filesystem`.
    """
    filesystem, root = open_filesystem(url)
    try:
        content = filesystem.find(root, detail=True)
    except Exception as error:  # of any network library
        raise DataError(f"{url}: cannot be listed ({first_line(error)}); check the address and the access") from error
    files, left_out = list[RemoteFile](), dict[str, list[str]]()
    for path in sorted(content, key=listing.natural_key):
        name = filesystem.unstrip_protocol(path)
        reason = reason_to_leave_out(path.removeprefix(root).strip("/") or path.rpartition("/")[2], name)
        if reason:
            left_out.setdefault(reason, []).append(name)
        else:
            files.append(RemoteFile(name, content[path].get("size"), version(content[path])))
    reasons = {reason: tuple(paths) for reason, paths in left_out.items()}
    if not files:
        raise listing.no_images_error(url, reasons)
    return files, reasons


def reason_to_leave_out(path: str, url: str) -> str | None:
    """Why a file, by its path below the URL that is listed, is not read as an image; its content is not looked at."""
    *folders, name = PurePosixPath(path).parts
    suffix = listing.suffix_of(name)
    if any(part.startswith(".") for part in (*folders, name)):
        return listing.HIDDEN
    if name.casefold() in listing.SIDE_FILES or any(part.casefold() in listing.SIDE_FOLDERS for part in folders):
        return listing.SIDE_FOLDER
    if suffix in listing.FOREIGN_SUFFIXES:
        return listing.FOREIGN
    return None if suffix in IMAGE_SUFFIXES else listing.NOT_AN_IMAGE


def read(url: str, size: int | None, expected: str | None) -> bytes | None:
    """The content of a file; None if it has another size or version than these. Tries a few times.

    Raises:
        ImageError: it does not exist, or is too large.
        DataError: it cannot be reached, or may not be read.
        MissingExtraError: as `open_filesystem`.
    """
    filesystem, path = open_filesystem(url)
    if size is not None and size > MAX_BYTES:
        raise ImageError(url, f"has {size:,} bytes, more than the limit of {MAX_BYTES:,}; reduce or crop it")
    for seconds in (*RETRY_SECONDS, None):
        try:
            content: bytes = filesystem.cat_file(path)
            if size not in (None, len(content)):
                return None
            return content if expected is None or version(filesystem.info(path)) == expected else None
        except FileNotFoundError as error:
            raise ImageError(url, "does not exist; check the path") from error
        except Exception as error:  # of any network library
            if seconds is None or isinstance(error, PermissionError):
                raise DataError(
                    f"{url}: cannot be read ({first_line(error)}); check the access to it, then run the same command "
                    "again"
                ) from error
            time.sleep(seconds)
    raise AssertionError  # not reached: the last try returns or raises
