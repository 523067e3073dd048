"""Watch a folder: each image that appears in it is inspected once, when it is complete.

What was inspected is in the store, by the path of the file and its content, so that a restart repeats nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from oddlens.detector.detector import Detector
from oddlens.errors import DataNotFoundError, DiskFullError, ImageError, StateError, StoreError
from oddlens.io.own_folder import lock
from oddlens.io.paths import check_outside_data
from oddlens.service.inspecting import Tags, Upload, inspect
from oddlens.store.contents import sha256
from oddlens.store.inspection import Filters, Inspection, clean_text
from oddlens.store.open import open_store
from oddlens.store.store import Store

MAX_POLL_SECONDS = 0.5
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
GRACE_SECONDS = 10.0  # for which a file that cannot be read must not change before it is named

Report = Callable[[int, Inspection], None]
Say = Callable[[str], None]
Signature = tuple[int, int, int]  # inode, size, nanoseconds of the last change


def watch_folder(
    folder: Path,
    name: str,
    detector: Path,
    store: str,
    *,
    tags: Tags,
    settle: float,
    stop: threading.Event,
    report: Report,
    say: Say,
) -> None:
    """Inspect what is in a folder and what appears in it until `stop` is set.

    Parameters:
        folder: searched to any depth; hidden files and folders are left out.
        name, detector: under which the detector runs, and its file.
        store: address of the store.
        tags: recorded with each inspection.
        settle: seconds for which a file must not change before it is read.
        report: called with the id of each inspection.
        say: called once with each remark.

    Raises:
        DataNotFoundError: there is no such folder.
        StateError: it is watched already.
        SettingsError: the store lies in it, so that stored images would be inspected again.
        OddlensError: the detector or the store cannot be used.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder}: is not a folder; make it first")
    with lock(folder) as is_free:
        if not is_free:
            raise StateError(f"{folder}: another `oddlens watch` inspects this folder; stop it first")
        with open_store(store) as opened:
            check_outside_data(opened.files.folder, [folder])
            loaded = Detector.load(detector, device="cpu")
            opened.add_detector(loaded, detector)
            watch = FolderWatch(folder, name, loaded, opened, tags, settle, report, say)
            while not stop.is_set():
                watch.scan(stop)
                stop.wait(min(settle / 2, MAX_POLL_SECONDS))


@dataclass
class FileState:
    """What is known of a file: how it was when it last changed, and whether nothing is left to do with it."""

    signature: Signature
    since: float  # monotonic seconds
    is_done: bool = False


@dataclass
class FolderWatch:
    """The files of a folder, as they were in the last scan."""

    folder: Path
    name: str
    detector: Detector
    store: Store
    tags: Tags
    settle: float
    report: Report
    say: Say
    clock: Callable[[], float] = time.monotonic
    files: dict[str, FileState] = field(default_factory=dict)
    waiting: str = ""  # what the store cannot do now

    def scan(self, stop: threading.Event) -> None:
        """Look at all files once, and inspect those that are complete."""
        present = dict(find_files(self.folder))
        for path in self.files.keys() - present.keys():
            if not self.files.pop(path).is_done:
                self.say(f"{path}: was removed before it was inspected")
        for path, signature in sorted(present.items(), key=lambda item: (item[1][2], item[0])):
            if stop.is_set():
                return
            now, state = self.clock(), self.files.get(path)
            if state is None or state.signature != signature:
                self.files[path] = FileState(signature, now)
            elif not state.is_done and now - state.since >= self.settle and not self._try(path, state, now):
                return  # the store is full or cannot be reached: the next scan tries again

    def _try(self, path: str, state: FileState, now: float) -> bool:
        """Inspect a file, unless it is not complete; False where the store cannot take it now."""
        try:
            self._inspect(path, state)
        except ImageError as error:
            if now - state.since >= max(GRACE_SECONDS, self.settle):
                state.is_done = True
                self.say(f"left out: {error}")
        except (DiskFullError, StoreError) as error:
            if str(error) != self.waiting:
                self.waiting = str(error)
                self.say(f"waiting: {error}")
            return False
        else:
            self.waiting = ""
        return True

    def _inspect(self, path: str, state: FileState) -> None:
        content = read_unchanged(path, state.signature)
        if content is None:
            return  # it changes, and the next scan sees it
        digest = sha256(content)
        earlier = self.store.inspections(Filters(name=clean_text(path), image_sha256=digest), limit=1)
        if not earlier:
            check_end(path, content)
            (item,) = inspect(self.name, self.detector, [Upload(path, content)], self.tags, with_map=False)
            self.report(self.store.add(*item), item[0])
        state.is_done = True


def find_files(folder: Path) -> Iterator[tuple[str, Signature]]:
    """The files of a folder, to any depth, without hidden ones."""
    for parent, folders, names in os.walk(os.path.abspath(folder)):  # noqa: PTH100 - a string, as names of images are
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 - a string
            if not name.startswith(".") and (signature := file_signature(path)) is not None:
                yield path, signature


def file_signature(path: str) -> Signature | None:
    """By what a change of a file is noticed; None where it is gone or no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a string
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def read_unchanged(path: str, signature: Signature) -> bytes | None:
    """The content of a file; None if it changed before it was read to the end.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror}); check its permissions") from error
    return content if file_signature(path) == signature and len(content) == signature[1] else None


def check_end(path: str, content: bytes) -> None:
    """Refuse a PNG file without its end, whose pixels may be decoded all the same.

    Raises:
        ImageError: its last chunk is missing.
    """
    if content.startswith(PNG_START) and PNG_END not in content:
        raise ImageError(path, "ends before its last chunk; copy it again")
