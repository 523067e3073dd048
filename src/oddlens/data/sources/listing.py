"""List the images below a folder, and account for everything else that lies there.

A file counts as an image if its suffix says so, or else if its content does. Everything that is not read as an image
is left out under a reason, so that no file is skipped without a word.
"""

from __future__ import annotations

import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from oddlens.data.image_header import HEAD_BYTES, IMAGE_SUFFIXES, is_image
from oddlens.data.image_set import LeftOut
from oddlens.errors import DataError, DataNotFoundError
from oddlens.io import own_files
from oddlens.io.own_files import MARKER, has_own_chunk, is_own_png
from oddlens.io.own_folder import is_working_folder

NOT_AN_IMAGE = "not an image"
FOREIGN = "an image in a format that oddlens does not read; convert it to PNG"
HIDDEN = "hidden"
SIDE_FOLDER = "made by another program beside the images"
OWN = "made by oddlens"
NOT_A_FILE = "a pipe, socket or device"
BROKEN_LINK = "a link that leads nowhere"
UNREADABLE = "cannot be read; check its permissions"
SECOND_LINK = "a link to a folder that is read already"
LINK = "a link, which is not followed here"
NOT_IN_LAYOUT = "outside the folders of this layout"

SIDE_FOLDERS = frozenset(  # of file servers and operating systems, which keep thumbnails and deleted files there
    {
        "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
        "recycler", "~snapshot", "temporary items", "network trash folder",
        "system volume information", "lost+found", "__pycache__",
    }
)  # fmt: skip
SIDE_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
FOREIGN_SUFFIXES = frozenset(  # raw formats are TIFF files that begin with a thumbnail, so their content misleads
    {
        ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".jxr", ".psd", ".svg", ".exr", ".hdr", ".dcm", ".dicom",
        ".tga", ".pcx", ".ico", ".raw", ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".raf", ".rw2",
        ".orf", ".pef", ".srw", ".3fr", ".iiq", ".x3f", ".kdc", ".mrw", ".gpr", ".erf", ".mef", ".mos", ".dcr", ".fff",
        ".srf", ".thm", ".svs", ".ndpi",
    }
)  # fmt: skip

_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class Entries:
    """What a folder contains, by name in natural order: images (or links to them), folders, and links to folders."""

    images: list[str]
    folders: list[str]
    links: list[str]


class FolderListing:
    """The images below the folder `root`, a path as the user wrote it; paths below it are relative to it.

    Each folder is read once. `left_out` accounts for every file and folder that was looked at and is not an image:
    without `follow_links`, symbolic links below the root are among them.
    """

    def __init__(self, root: str, follow_links: bool = True) -> None:
        self.root = root
        self.follow_links = follow_links
        self._entries: dict[str, Entries] = {}
        self._left_out: dict[str, dict[str, None]] = {}  # ordered sets

    @property
    def left_out(self) -> LeftOut:
        """Paths of what was left out, by reason."""
        return {reason: tuple(sorted(paths, key=natural_key)) for reason, paths in self._left_out.items()}

    def leave_out(self, reason: str, path: str) -> None:
        """Account for a file or a folder below the root."""
        self._left_out.setdefault(reason, {})[join(self.root, path)] = None

    def subfolders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder, and of links to folders; none where there is no such folder.

        Folders that oddlens made for its own files are left out.
        """
        entries = self.entries(folder)
        names = sorted(entries.folders + entries.links, key=natural_key)
        own = {name for name in names if is_working_folder(Path(self.root, folder, name))}
        for name in own:
            self.leave_out(OWN, join(folder, name, ""))
        return [name for name in names if name not in own]

    def images(self, folder: str = "") -> list[str]:
        """Paths of the images below a folder at any depth, relative to the root, in natural order.

        Symbolic links are followed, but no folder is read twice, so cycles of links end.
        """
        paths: list[str] = []
        visited: set[tuple[int, int]] = set()
        pending, pending_links = deque([folder]), deque[str]()  # links come last: paths without links are preferred
        while pending or pending_links:
            is_link = not pending
            subfolder = pending_links.popleft() if is_link else pending.popleft()
            path = Path(self.root, subfolder)
            if not path.is_dir():
                continue
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in visited:
                self.leave_out(SECOND_LINK, subfolder)
                continue
            visited.add(identity)
            entries = self.entries(subfolder)
            paths += [join(subfolder, name) for name in entries.images]
            pending.extend(join(subfolder, name) for name in entries.folders)
            pending_links.extend(join(subfolder, name) for name in entries.links)
        return sorted(paths, key=natural_key)

    def entries(self, folder: str) -> Entries:
        """What a folder contains; empty where there is no such folder.

        Raises:
            DataError: an image has a backslash in its name.
        """
        if folder not in self._entries:
            self._entries[folder] = self._read(folder)
        return self._entries[folder]

    def _read(self, folder: str) -> Entries:
        entries = Entries([], [], [])
        path = join(self.root, folder)
        if not Path(path).is_dir():
            return entries
        with os.scandir(path) as content:
            listed = list(content)
        if folder and is_working_folder(Path(path)):
            self.leave_out(OWN, join(folder, ""))
            return entries
        for entry in listed:
            self._sort_in(entry, join(folder, entry.name), entries)
        for names in (entries.images, entries.folders, entries.links):
            names.sort(key=natural_key)
        return entries

    def _sort_in(self, entry: os.DirEntry[str], path: str, entries: Entries) -> None:
        name = entry.name
        if name == MARKER:
            return
        if not self.follow_links and entry.is_symlink():
            self.leave_out(LINK, path)
            return
        is_folder = entry.is_dir(follow_symlinks=False)
        is_link = not is_folder and entry.is_symlink() and Path(entry.path).is_dir()
        if is_folder or is_link:
            reason = HIDDEN if name.startswith(".") else SIDE_FOLDER if name.casefold() in SIDE_FOLDERS else None
            if reason:
                self.leave_out(reason, join(path, ""))
            else:
                (entries.folders if is_folder else entries.links).append(name)
            return
        reason = reason_to_leave_out(entry)
        if reason:
            self.leave_out(reason, path)
        elif "\\" in name and os.sep == "/":
            raise DataError(
                f"{join(self.root, path)}: has a backslash in its name, as after unpacking an archive from Windows, so "
                "its folders are lost; unpack the archive again with `unzip`, which makes folders of such names"
            )
        else:
            entries.images.append(name)


def reason_to_leave_out(entry: os.DirEntry[str]) -> str | None:
    """Why a file is not read as an image; None for an image, and for a link with an image's name that leads nowhere."""
    name, suffix = entry.name, suffix_of(entry.name)
    if name.startswith("."):
        return HIDDEN
    if name.casefold() in SIDE_FILES:
        return SIDE_FOLDER
    if suffix in FOREIGN_SUFFIXES:
        return FOREIGN
    is_file = Path(entry.path).is_file() if entry.is_symlink() else entry.is_file()  # a loop of links raises there
    if not is_file:
        is_broken_link = entry.is_symlink() and not Path(entry.path).exists()
        broken_reason = None if suffix in IMAGE_SUFFIXES else BROKEN_LINK
        return broken_reason if is_broken_link else NOT_A_FILE
    if suffix in IMAGE_SUFFIXES:
        return OWN if suffix == ".png" and is_own_png(entry.path) else None
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - of 60,000 files
            head = file.read(max(HEAD_BYTES, own_files.HEAD_BYTES))
            return OWN if has_own_chunk(head) else None if is_image(head) else NOT_AN_IMAGE
    except OSError:
        return UNREADABLE


def natural_key(path: str) -> tuple[str, str]:
    """Sort key for natural order: folder by folder, numbers by value, case ignored.

    A number becomes a character below all letters, its number of digits, and its digits; the separator of folders sorts
    below that character.

    >>> sorted(["b/1.png", "a10.png", "a9.png", "A2.png"], key=natural_key)
    ['A2.png', 'a9.png', 'a10.png', 'b/1.png']
    """
    return _NUMBER.sub(_number_key, path.casefold().replace(os.sep, "\0")), path


def _number_key(number: re.Match[str]) -> str:
    digits = number[0].lstrip("0")
    return f"\1{len(digits):03}{digits}"


def no_images_error(folder: str, left_out: LeftOut) -> DataNotFoundError:
    """The error for a folder without images, which says what lies there instead."""
    n_left_out = sum(map(len, left_out.values()))
    others = f" (left out: {n_left_out}, {min(left_out)}: {left_out[min(left_out)][0]})" if n_left_out else ""
    return DataNotFoundError(f"{folder}: contains no images{others}; add some ({', '.join(sorted(IMAGE_SUFFIXES))})")


def join(*parts: str) -> str:
    """Paths joined as the user wrote them."""
    return os.path.join(*parts)  # noqa: PTH118 - pathlib would drop a "./" that the user wrote


def suffix_of(file: str) -> str:
    """The suffix of a file's name in lower case."""
    return os.path.splitext(file)[1].lower()  # noqa: PTH122 - of 60,000 names
