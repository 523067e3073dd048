"""Retention: the oldest files go, rows stay and say so, and a crash leaves nothing that prune does not mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from stored_inspections import DETECTOR_FILE, add_some, inspection, stored_paths

from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError, SettingsError
from oddlens.store import retention
from oddlens.store.contents import ContentFolder, sha256
from oddlens.store.open import open_store
from oddlens.store.store import Store

DETECTOR_BYTES = DETECTOR_FILE.stat().st_size


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def add_aged(store: Store, ages: list[float]) -> list[int]:
    """Inspections of images of 1,000 bytes each, so many days ago."""
    return [store.add(inspection(time=days_ago(age)), b"%01000d" % age) for age in ages]


def stored(store: Store) -> list[int]:
    return [one.id for page in store.iter_inspections() for one in page if one.image_stored]


def test_images_are_removed_by_age_and_their_rows_say_so(store: Store) -> None:
    add_aged(store, [40, 31, 29, 1])
    before = [one.anomaly_score for one in store.inspections()]
    pruned = store.prune(keep_days=30)
    assert (pruned.expired, pruned.expired_bytes, pruned.remaining) == (2, 2000, 3)
    assert pruned.oldest is not None
    assert pruned.oldest.date() == days_ago(40).date()
    assert stored(store) == [3, 4]
    assert store.image(store.inspection(1)) is None
    assert store.image(store.inspection(3)) == b"%01000d" % 29
    assert [one.anomaly_score for one in store.inspections()] == before
    assert len(stored_paths(store)) == 3
    assert store.check() == []


def test_the_oldest_are_removed_beyond_a_size(store: Store) -> None:
    add_aged(store, [1, 4, 2, 3])
    pruned = store.prune(keep_gb=(DETECTOR_BYTES + 2000) / 1e9)
    assert (pruned.expired, pruned.remaining_bytes) == (2, DETECTOR_BYTES + 2000)
    assert stored(store) == [1, 3]


def test_a_content_lives_as_long_as_its_youngest_inspection_needs_it(store: Store) -> None:
    for age in (1, 40):
        store.add(inspection(time=days_ago(age)), b"image", b"map")
    store.add(inspection(time=days_ago(40)), b"another", b"map")
    store.prune(keep_days=30)
    assert stored(store) == [1, 2]
    assert store.map_png(store.inspection(3)) == b"map"


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    add_aged(store, [40, 31, 1])
    paths = stored_paths(store)
    dry = store.prune(keep_days=30, dry_run=True)
    assert stored_paths(store) == paths
    assert stored(store) == [1, 2, 3]
    wet = store.prune(keep_days=30)
    assert dry.as_json() == wet.as_json() | {"dry_run": True}
    assert store.prune(keep_days=30).expired == 0


def test_without_limits_nothing_expires(store: Store) -> None:
    add_aged(store, [4000])
    assert store.prune().expired == 0
    assert stored(store) == [1]


def test_a_limit_of_nothing_removes_all_files_and_the_next_inspection_is_stored_whole(store: Store) -> None:
    add_aged(store, [1])
    assert store.prune(keep_gb=0).remaining == 0
    assert stored_paths(store) == []
    assert store.detector_file(store.inspection(1)) is None
    number = store.add(inspection(), b"image")
    assert store.detector_file(store.inspection(number)) == (".onnx", DETECTOR_FILE.read_bytes())
    assert store.check() == []


def test_limits_that_are_none_are_refused(store: Store) -> None:
    add_aged(store, [1])
    for days, gb in ((-1, None), (None, -1), (float("nan"), None), (1e9, None)):
        with pytest.raises(SettingsError, match="files cannot be kept"):
            store.prune(keep_days=days, keep_gb=gb)
    assert stored(store) == [1]


def test_a_prune_that_was_killed_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between marking and removing, and between removing and noting it."""
    add_aged(store, [40, 31, 1])

    def fail(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, "remove_expired", fail)
    with pytest.raises(KeyboardInterrupt):
        store.prune(keep_days=30)
    monkeypatch.undo()
    assert stored(store) == [3]
    assert store.check() == []
    real, removed = ContentFolder.remove, list[str]()

    def remove_one(self: ContentFolder, digest: str) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(digest)
        real(self, digest)

    monkeypatch.setattr(ContentFolder, "remove", remove_one)
    with pytest.raises(KeyboardInterrupt):
        store.prune()
    monkeypatch.undo()
    assert store.check() == []
    assert len(stored_paths(store)) == 3
    assert store.prune().expired == 2
    assert len(stored_paths(store)) == 2


def test_an_image_that_is_inspected_again_after_it_was_marked_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(inspection(time=days_ago(40)), b"image")
    real: Callable[..., int] = retention.remove_expired

    def add_first(*arguments: Any) -> int:
        monkeypatch.undo()
        store.add(inspection(), b"image")
        return real(*arguments)

    monkeypatch.setattr(retention, "remove_expired", add_first)
    store.prune(keep_days=30)
    assert stored(store) == [1, 2]
    assert store.check() == []


def test_an_image_that_is_removed_while_it_is_added_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is there before the transaction, and gone when that begins."""
    store.add(inspection(time=days_ago(40)), b"image")
    real = ContentFolder.write

    def prune_after(self: ContentFolder, content: bytes, digest: str) -> None:
        real(self, content, digest)
        monkeypatch.undo()
        store.prune(keep_days=30)

    monkeypatch.setattr(ContentFolder, "write", prune_after)
    number = store.add(inspection(), b"image")
    assert store.image(store.inspection(number)) == b"image"
    assert store.check() == []


def test_what_a_crash_left_is_removed_and_other_files_stay(store: Store) -> None:
    add_some(store, 1)
    orphan = sha256(b"orphan")
    store.files.write(b"orphan", orphan)
    folder = store.files.path(orphan).parent
    partial, notes = folder / ".oddlens-0123.partial", folder / "notes.txt"
    for path in (partial, notes):
        path.write_bytes(b"1234")
        os.utime(path, (0, 0))
    dry = store.prune(dry_run=True)
    assert (dry.orphans, dry.orphan_bytes) == (2, 10)
    assert partial.exists()
    assert store.prune().as_json() == dry.as_json() | {"dry_run": False}
    assert list(folder.iterdir()) == [notes]
    assert store.check() == []


def test_an_idle_detector_that_was_removed_by_another_process_is_stored_again(
    store: Store, url: str, tiles: Detector
) -> None:
    add_aged(store, [1])
    with open_store(url) as other:
        other.prune(keep_gb=0)
        with pytest.raises(OddlensError, match="call add_detector first"):
            other.add(inspection(), b"image")
        other.add_detector(tiles, DETECTOR_FILE)
        other.prune(keep_gb=0)
    assert store.detector_file(store.inspection(store.add(inspection(), b"image"))) is not None
