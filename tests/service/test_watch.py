from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_service import noise
from stored_inspections import DETECTOR_FILE

from oddlens.detector.detector import Detector
from oddlens.errors import DataNotFoundError, DiskFullError, SettingsError, StateError
from oddlens.io.own_folder import lock
from oddlens.service.inspecting import Tags
from oddlens.service.watch import GRACE_SECONDS, FolderWatch, watch_folder
from oddlens.store.inspection import Inspection
from oddlens.store.open import open_store
from oddlens.store.store import Store


class Watched:
    """A watched folder with a clock that tests move."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.now = folder, 0.0
        self.done, self.said = list[tuple[int, Inspection]](), list[str]()
        self.watch = FolderWatch(
            folder, "tiles", Detector.load(DETECTOR_FILE), store, Tags(lot="A"), 1.0,
            lambda *one: self.done.append(one), self.said.append, clock=lambda: self.now,
        )  # fmt: skip

    def scan(self, seconds: float = 1.0) -> list[str]:
        """The names of the files that a scan inspects, so many seconds after the last one."""
        self.now += seconds
        before = len(self.done)
        self.watch.scan(threading.Event())
        return [os.path.relpath(one.name, self.folder) for _, one in self.done[before:]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(Detector.load(DETECTOR_FILE), DETECTOR_FILE)
        yield store


@pytest.fixture
def watched(tmp_path: Path, store: Store) -> Watched:
    (tmp_path / "drop").mkdir()
    return Watched(tmp_path / "drop", store)


def test_each_image_is_inspected_once_when_it_no_longer_changes(watched: Watched) -> None:
    (watched.folder / "day").mkdir()
    (watched.folder / "day/a.png").write_bytes(noise())
    assert watched.scan() == []
    assert watched.scan(0.5) == []
    assert watched.scan(0.5) == ["day/a.png"]
    assert watched.scan() == watched.scan() == []
    assert watched.done[0][1].lot == "A"
    assert watched.said == []


def test_a_file_that_is_being_written_waits_until_it_is_complete(watched: Watched) -> None:
    path, content = watched.folder / "a.png", noise()
    for end in range(20, len(content), 20):
        path.write_bytes(content[:end])
        os.utime(path, ns=(end, end))
        assert watched.scan() == []
    assert watched.scan(2) == []  # the writer pauses: it cannot be decoded yet, and is tried again
    path.write_bytes(content)
    assert watched.scan() == []
    assert watched.scan() == ["a.png"]
    assert watched.said == []


def test_a_restart_repeats_nothing_even_after_a_crash_before_it_was_reported(watched: Watched, store: Store) -> None:
    for seed in range(3):
        (watched.folder / f"{seed}.png").write_bytes(noise(seed))
    watched.scan()
    assert len(watched.scan()) == 3
    again = Watched(watched.folder, store)
    (watched.folder / "3.png").write_bytes(noise(3))
    again.scan()
    assert again.scan() == ["3.png"]
    assert store.counts()["n"] == 4


def test_a_name_that_a_camera_uses_again_is_a_new_image(watched: Watched) -> None:
    for seed in range(2):
        (watched.folder / "a.png").write_bytes(noise(seed))
        os.utime(watched.folder / "a.png", ns=(seed, seed))
        watched.scan()
        assert watched.scan() == ["a.png"]


def test_what_is_no_image_is_named_once_and_hidden_files_are_left_out(watched: Watched) -> None:
    (watched.folder / "notes.txt").write_text("notes")
    (watched.folder / ".a.png.Xy12").write_bytes(noise()[:50])
    for _ in range(5):
        assert watched.scan(GRACE_SECONDS) == []
    (message,) = watched.said
    assert "left out" in message
    assert "notes.txt" in message


def test_a_file_that_goes_before_it_was_inspected_is_named(watched: Watched) -> None:
    (watched.folder / "a.png").write_bytes(noise())
    watched.scan()
    (watched.folder / "a.png").unlink()
    watched.scan()
    assert "was removed before" in watched.said[0]


def test_a_full_disk_is_said_once_and_the_image_is_inspected_when_there_is_room(
    watched: Watched, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*item: object) -> int:
        raise DiskFullError("no room")

    (watched.folder / "a.png").write_bytes(noise())
    with monkeypatch.context() as patch:
        patch.setattr(store, "add", full)
        assert [watched.scan() for _ in range(4)] == [[]] * 4
    assert watched.scan() == ["a.png"]
    assert watched.said == ["waiting: no room"]


def watch_once(folder: Path, store: Path) -> None:
    stop = threading.Event()
    stop.set()
    watch_folder(
        folder, "tiles", DETECTOR_FILE, str(store), tags=Tags(), settle=1, stop=stop, report=lambda *one: None,
        say=lambda text: None,
    )  # fmt: skip


def test_a_folder_is_watched_by_one_process_only(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    with lock(tmp_path / "drop") as is_free:
        assert is_free
        with pytest.raises(StateError, match="another `oddlens watch`"):
            watch_once(tmp_path / "drop", tmp_path / "parts.db")
    assert not (tmp_path / "parts.db").exists()
    watch_once(tmp_path / "drop", tmp_path / "parts.db")


def test_a_missing_folder_and_a_store_inside_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="make it first"):
        watch_once(tmp_path / "missing", tmp_path / "parts.db")
    (tmp_path / "drop").mkdir()
    with pytest.raises(SettingsError, match="outside"):
        watch_once(tmp_path / "drop", tmp_path / "drop/parts.db")
    watch_once(tmp_path / "drop", tmp_path / "parts.db")
