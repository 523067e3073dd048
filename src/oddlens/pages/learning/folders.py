"""Folders of photographs by their ids: those below the root of the server, and those that people uploaded.

An id is a digest of a path, and only what a listing has can be opened by it. Links are not followed at any level.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from oddlens.data.image_header import IMAGE_SUFFIXES
from oddlens.data.image_io import decode
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.open import open_dataset, translate_read_errors
from oddlens.data.sources.listing import SIDE_FOLDERS, FolderListing, natural_key, suffix_of
from oddlens.data.sources.mask_files import MASK_FOLDERS
from oddlens.errors import DataError, DataNotFoundError, ImageError, SettingsError
from oddlens.io.atomic import write_bytes
from oddlens.io.own_files import HEAD_BYTES, MARKER, has_own_chunk
from oddlens.io.own_folder import read_marker, write_marker
from oddlens.io.text import as_text
from oddlens.pages.learning.workspace import Workspace
from oddlens.reporting.data_report import gray_range
from oddlens.reporting.embedded_images import shrunk_image

ROOT_NAME = "."  # of the root itself
UPLOADS = "//uploads"  # before the paths of uploads, from which ids are made; no path below the root begins so
MAX_NAME = 200  # characters of the name of an upload
THUMBNAIL_SIDE = 256
BESIDE_MASKS = frozenset({"train", "test", "images"})  # names of folders of images, which have masks beside them
OF_NORMAL = frozenset({"good", "normal", "ok", "train"})  # names of folders that do not say what they show
EXCLUDED = "excluded in the project"  # why an image is left out


@dataclass(frozen=True)
class PhotoFolder:
    """A folder that has photographs at any depth."""

    id: str
    name: str  # the path below the root, "." for the root itself; of uploads, as people called it
    n_images: int  # files that are named like images
    uploaded: bool = False


@dataclass(frozen=True)
class Photo:
    """One photograph of a folder."""

    id: str
    name: str  # the path below the folder
    part: str  # "train" or "test"
    kind: str  # "good", a class or a defect
    label: int  # 0 normal, 1 anomalous


@dataclass(frozen=True)
class Upload:
    """What became of uploaded files: how many were added to which folder, and why others were not."""

    folder: str  # its id
    n_added: int
    refused: tuple[tuple[str, str], ...]  # name, reason


class Photographs:
    """The folders of photographs that engineers may use: below `root`, and the uploads in the workspace.

    Raises:
        DataNotFoundError: the root is no folder.
    """

    def __init__(self, root: Path, workspace: Workspace) -> None:
        if not root.is_dir():
            raise DataNotFoundError(f"{root}: is not a folder; name the folder of photographs (--root)")
        self.root = Path(os.path.realpath(root))
        self.uploads = workspace.uploads
        self._listed: dict[str, tuple[PhotoFolder, Path]] = {}  # by id
        self._images: dict[str, dict[str, Path]] = {}  # by the ids of folder and image

    def folders(self) -> list[PhotoFolder]:
        """All folders with photographs, in natural order, uploads last; folders that cannot be read are left out.

        Raises:
            DataError: the root cannot be read.
        """
        counts = count_images(self.root)
        listed = [
            (PhotoFolder(identity(path), as_text(path), counts[path]), self.root / path)
            for path in sorted(counts, key=natural_key)
        ]
        for path in sorted(self.uploads.iterdir()):
            name, count = read_marker(path).get("upload"), sum(1 for _ in path.iterdir()) - 1  # the marker
            if isinstance(name, str) and count > 0:
                listed.append((PhotoFolder(identity(f"{UPLOADS}/{path.name}"), name, count, uploaded=True), path))
        self._listed = {folder.id: (folder, path) for folder, path in listed}
        return [folder for folder, _ in listed]

    def open(self, folder_id: str) -> Path:
        """The path of a folder by its id.

        Raises:
            DataNotFoundError: there is no such folder, or it is not what it was when it was listed.
        """
        if folder_id not in self._listed:
            self.folders()
        _, path = self._listed.get(folder_id, (None, None))
        if path is None or not path.is_dir() or passes_links(path):
            raise DataNotFoundError(f"there is no folder of photographs {folder_id[:40]!r}; choose one of the list")
        return path

    def name(self, folder_id: str) -> str:
        """The name of a folder by its id.

        Raises:
            DataNotFoundError: there is no such folder.
        """
        self.open(folder_id)
        return self._listed[folder_id][0].name

    def subject(self, folder_id: str) -> str:
        """What a folder shows, by its name: that of the folder around "good" where it is called so.

        Raises:
            DataNotFoundError: there is no such folder.
        """
        parts = [self.root.name or "photographs", *PurePosixPath(self.name(folder_id)).parts]
        return next((part for part in reversed(parts) if part.casefold() not in OF_NORMAL), parts[-1])

    def images(self, folder_id: str, normal: str | None = None) -> list[Photo]:
        """The photographs of a folder in its layout (see `open_dataset`), those of its training part first.

        Raises:
            DataNotFoundError: there is no such folder, or it has no images.
            DataError: its layout is unclear; `normal` may have to name the class that is normal.
        """
        path = self.open(folder_id)
        data = open_photographs(path, normal)
        return [photo for part in ("train", "test") for photo in photos(path, part, getattr(data, part))]

    def image(self, folder_id: str, image_id: str) -> Path:
        """The path of an image below a folder by its id.

        Raises:
            DataNotFoundError: there is no such image.
        """
        folder, images = self.open(folder_id), self._images.get(folder_id, {})
        if image_id not in images:
            with translate_read_errors(str(folder)):
                names = FolderListing(str(folder), follow_links=False).images()
            images = self._images[folder_id] = {identity(name): folder / name for name in names}
        path = images.get(image_id)
        if path is None or not path.is_file() or passes_links(path):
            raise DataNotFoundError(f"there is no image {image_id[:40]!r} in this folder; choose one of the list")
        return path

    def add_uploads(self, name: str, files: Iterable[tuple[str, bytes]]) -> Upload:
        """Add images to the uploads of a name, or begin them; each file is decoded first, and named by its content.

        `files` are names and contents. Without any image that can be used, nothing is written.

        Raises:
            SettingsError: the name is empty or too long.
            DiskFullError, OddlensError: an image cannot be written; those before it are there.
        """
        name = name.strip()
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise SettingsError(f"uploaded images need a name of 1 to {MAX_NAME} printable characters for their folder")
        path = identity(name)
        folder, added, refused = self.uploads / path, 0, list[tuple[str, str]]()
        for file, content in files:
            target = folder / (hashlib.sha256(content).hexdigest()[:32] + image_suffix(file))
            reason = refusal(content, target)
            if reason is not None:
                refused.append((as_text(file), reason))
                continue
            if not added:
                write_marker(folder, {"upload": name})
            write_bytes(target, content)
            added += 1
        return Upload(identity(f"{UPLOADS}/{path}"), added, tuple(refused))


def identity(path: str) -> str:
    """The id of a path below a folder, in POSIX's form: 16 hexadecimal digits.

    >>> identity("train/good/000.png")
    '7cd1bde8c13901a9'
    """
    return hashlib.sha256(os.fsencode(path.replace(os.sep, "/"))).hexdigest()[:16]


def passes_links(path: Path) -> bool:
    """Whether a path whose base is real leads through a symbolic link."""
    return os.path.realpath(path) != str(path)


def count_images(root: Path) -> dict[str, int]:
    """How many images the folders at and below `root` have at any depth, by their paths below it; only those with any.

    Only names are read. Hidden folders, those of file servers and operating systems, those that oddlens made for its
    own files, masks beside the images that they belong to, and links are left out; so are folders that cannot be read.

    Raises:
        DataError: the root cannot be read.
    """
    counts, pending = Counter[str](), [ROOT_NAME]
    while pending:
        folder = pending.pop()
        with translate_read_errors(str(root)) if folder == ROOT_NAME else contextlib.suppress(OSError):
            with os.scandir(root / folder) as content:
                entries = [entry for entry in content if not entry.name.startswith(".")]
            subfolders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            masks = MASK_FOLDERS if BESIDE_MASKS & {entry.name.casefold() for entry in subfolders} else ()
            listed = [entry.name for entry in subfolders if is_listed(entry) and entry.name.casefold() not in masks]
            pending += [str(PurePosixPath(folder, name)) for name in listed]
            images = [entry for entry in entries if suffix_of(entry.name) in IMAGE_SUFFIXES]
            count = sum(entry.is_file(follow_symlinks=False) for entry in images)
            for parent in (PurePosixPath(folder), *PurePosixPath(folder).parents):
                counts[str(parent)] += count
    return {folder: count for folder, count in counts.items() if count}


def is_listed(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is one of photographs: not of an operating system, and not of oddlens's own files."""
    return entry.name.casefold() not in SIDE_FOLDERS and not Path(entry.path, MARKER).exists()


def open_photographs(folder: Path, normal: str | None = None, excluded: frozenset[str] = frozenset()) -> DataSet:
    """The data set in a folder, without links and without the images whose ids are `excluded`, which are left out.

    Raises:
        DataNotFoundError, DataError: as `open_dataset`, all images are excluded, or the folder became a link.
    """
    if passes_links(folder):
        raise DataNotFoundError(f"{folder}: has become a link, which is not followed; choose another folder")
    data = open_dataset(folder, normal=normal, follow_links=False)
    parts, names = dict[str, ImageSet](), list[str]()
    for part in ("train", "test"):
        images: ImageSet = getattr(data, part)
        is_excluded = np.array([image_id(folder, name) in excluded for name in images.names], dtype=bool)
        names += images.subset(is_excluded).names
        parts[part] = images.subset(~is_excluded)
    if not any(map(len, parts.values())):
        raise DataError("all photographs are excluded; include some")
    left_out = {**data.left_out, EXCLUDED: tuple(names)} if names else data.left_out
    return replace(data, train=parts["train"], test=parts["test"], left_out=left_out)


def photos(folder: Path, part: str, images: ImageSet) -> list[Photo]:
    """The images of a part of the data set in a folder."""
    rows = zip(images.names, images.kinds, images.labels.tolist(), strict=True)
    return [Photo(image_id(folder, name), below(folder, name), part, kind, label) for name, kind, label in rows]


def image_id(folder: Path, name: str) -> str:
    """The id of an image, whose name is its path, in a folder."""
    return identity(os.path.relpath(name, folder))


def below(folder: Path, name: str) -> str:
    """The path of an image below its folder, as text."""
    return as_text(os.path.relpath(name, folder))


def without_path(sentence: str, folder: Path, name: str) -> str:
    """A sentence that calls a folder by its name on the pages, and its files by their paths below it."""
    return sentence.replace(f"{folder}{os.sep}", "").replace(str(folder), name)


def image_suffix(file: str) -> str:
    """The suffix of an uploaded image; none where it is not that of an image, which its content shows then."""
    suffix = suffix_of(file)
    return suffix if suffix in IMAGE_SUFFIXES else ""


def refusal(content: bytes, target: Path) -> str | None:
    """Why an uploaded file is not added as `target`; None if it is."""
    if has_own_chunk(content[:HEAD_BYTES]):
        return "is a figure or a map that oddlens made, not a photograph"
    if target.exists():
        return "is there already"
    try:
        decode(content)
    except ImageError as error:
        return error.reason
    return None


def thumbnail(path: Path, side: int = THUMBNAIL_SIDE) -> bytes:
    """An image, its longer side at most `side` pixels, as a PNG file.

    Raises:
        ImageError: it cannot be decoded, or is too large.
    """
    pixels, content = decode(path), io.BytesIO()
    shrunk_image(pixels, gray_range(pixels), side).save(content, format="png")
    return content.getvalue()
