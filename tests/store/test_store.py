"""The store: what is added is there, whole, whatever happens; nothing is ever changed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small_disk import fill, small_disk
from stored_inspections import DETECTOR_FILE, DIGEST, VALUES, add_some, inspection, stored_paths

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError, DiskFullError, StateError
from oddlens.store.contents import sha256
from oddlens.store.open import open_store
from oddlens.store.store import Store


def test_an_inspection_comes_back_with_all_that_was_recorded(store: Store) -> None:
    one = inspection(part="p", lot="l", station="s", operator="o", group="g", threads=2, batch_size=7)
    number = store.add(one, b"image", b"map")
    stored = store.inspection(number)
    assert {name: getattr(stored, name) for name in vars(one)} == vars(one)
    assert (stored.image_sha256, stored.map_sha256) == (sha256(b"image"), sha256(b"map"))
    assert (stored.image_stored, stored.map_stored, stored.detector_stored) == (True, True, True)
    assert (store.image(stored), store.map_png(stored)) == (b"image", b"map")
    assert store.detector_file(stored) == (".onnx", DETECTOR_FILE.read_bytes())
    assert stored.as_json()["judgement"] is None
    without = store.inspection(store.add(one, b"image"))
    assert (without.map_sha256, without.map_stored, store.map_png(without)) == (None, False, None)


def test_floats_keep_all_bits(store: Store) -> None:
    values = [0.1 + 0.2, 1e-310, -1.7976931348623157e308, 5e-324]
    numbers = [store.add(inspection(anomaly_score=value), b"image") for value in values]
    assert [store.inspection(number).anomaly_score for number in numbers] == values


def test_hostile_text_is_stored_as_text(store: Store) -> None:
    name = "'; DROP TABLE inspections; -- ../../etc/passwd \0 \ud800 <script> 缺陷" + "x" * 100_000
    stored = store.inspection(store.add(inspection(name=name, lot=""), b"image"))
    assert stored.name == name.replace("\0", "\\x00").replace("\ud800", "\\ud800")
    assert stored.lot == ""
    assert len(stored_paths(store)) == 2


def test_equal_contents_are_stored_once(store: Store) -> None:
    add_some(store, 3)
    add_some(store, 3)
    assert len(stored_paths(store)) == 3 + 1


def test_a_batch_is_stored_as_a_whole_or_not_at_all(store: Store) -> None:
    assert store.add_batch([]) == []
    good = (inspection(), b"image", None)
    with pytest.raises(StateError, match="the detector 0000 is not in the store; call add_detector first"):
        store.add_batch([good, (inspection(detector_digest="0000"), b"image", None)])
    assert store.counts()["n"] == 0
    assert store.check() == []
    ids = add_some(store, 50)
    assert [store.inspection(number).name for number in ids] == [f"{i}.png" for i in range(50)]


def test_what_does_not_exist_is_an_error(store: Store) -> None:
    for number in (0, -1, 99, 2**63, 2**70):
        with pytest.raises(DataNotFoundError, match=f"there is no inspection {number}"):
            store.inspection(number)
        with pytest.raises(DataNotFoundError, match=f"there is no inspection {number}"):
            store.judge(number, "normal", person="Ann")
        with pytest.raises(DataNotFoundError, match=f"there is no judgement {number}"):
            store.withdraw(number, person="Ann")
    assert store.judgements(1) == []


def test_a_closed_store_says_so(url: str) -> None:
    store = open_store(url)
    store.close()
    store.close()
    calls: list[Any] = [
        lambda: store.add(inspection(), b"image"),
        lambda: store.add_detector(None, DETECTOR_FILE),  # type: ignore[arg-type]
        lambda: store.inspection(1),
        store.counts,
        store.prune,
        store.check,
        store.inspections,
        store.deployed,
        store.actions,
        store.last_ids,
        lambda: next(store.iter_inspections()),
    ]
    for call in calls[:1] + calls[2:]:
        with pytest.raises(StateError, match="this store is closed"):
            call()
    assert not store.files.root.exists(), "nothing is written before it is refused"


def test_many_threads_write_and_read_at_once(store: Store) -> None:
    errors, ids = list[BaseException](), list[int]()

    def work(worker: int) -> None:
        try:
            for i in range(8):
                number = store.add(inspection(name=f"{worker}-{i}"), b"%d %d" % (worker, i % 4))
                store.judge(number, "normal", person=f"person {worker}")
                assert store.inspection(number).name == f"{worker}-{i}"
                store.inspections(limit=5)
                ids.append(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    store.prune(keep_days=30)
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(ids) == sorted(set(ids))
    assert store.counts() | {"n": 48, "n_judged": 48} == store.counts()
    assert len(stored_paths(store)) == 6 * 4 + 1
    assert store.check() == []


def test_a_reader_that_pauses_does_not_stop_writers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.store.store.PAGE", 2)
    add_some(store, 5)
    pages = store.iter_inspections()
    assert [one.id for one in next(pages)] == [1, 2]
    add_some(store, 1)
    assert [one.id for page in pages for one in page] == [3, 4, 5, 6]


def test_readers_go_on_after_the_last_id_that_they_have(store: Store) -> None:
    assert store.last_ids() == (0, 0)
    assert (store.inspections_after(0), store.judgements_after(0)) == ([], [])
    add_some(store, 5)
    undone = store.judge(3, "anomaly", person="Ann")
    store.withdraw(undone.id, person="Ann")
    store.judge(1, "normal", person="Bob")
    assert store.last_ids() == (5, 3)
    assert [one.id for one in store.inspections_after(2)] == [3, 4, 5]
    assert [one.id for one in store.inspections_after(0, limit=2)] == [1, 2]
    assert store.inspections_after(0, limit=1) == [store.inspection(1)]
    assert [(one.inspection_id, one.withdraws) for one in store.judgements_after(0)] == [(3, None), (3, 1), (1, None)]
    assert store.judgements_after(1, limit=1) == [store.judgements(3)[1]]
    assert (store.inspections_after(5), store.judgements_after(3)) == ([], [])


def test_a_reader_that_follows_many_writers_misses_nothing(store: Store) -> None:
    def write(worker: int) -> None:
        for i in range(12):
            number = store.add(inspection(name=f"{worker}-{i}"), b"image %d" % worker)
            store.judge(number, "normal", person="Ann")

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(5)]
    for thread in threads:
        thread.start()
    inspections, judgements = list[int](), list[int]()
    while any(thread.is_alive() for thread in threads) or store.last_ids() != (len(inspections), len(judgements)):
        inspections += [one.id for one in store.inspections_after(inspections[-1] if inspections else 0, 7)]
        judgements += [one.id for one in store.judgements_after(judgements[-1] if judgements else 0, 7)]
        assert store.last_ids() >= (len(inspections), 0)
        time.sleep(0.005)  # or SQLite's one connection is hardly ever free for those that write
    assert inspections == judgements == list(range(1, 61))


def test_the_file_of_a_detector_is_read_by_its_digest(store: Store) -> None:
    assert store.detector_content(DIGEST) == (".onnx", DETECTOR_FILE.read_bytes())
    with pytest.raises(DataNotFoundError, match="the file of the detector 0000 is not in the store"):
        store.detector_content("0000")
    (path,) = stored_paths(store)
    path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="is not what was written"):
        store.detector_content(DIGEST)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.detector_content(DIGEST)
    store.prune(keep_gb=0)
    with pytest.raises(DataNotFoundError, match="is not in the store; add the detector again"):
        store.detector_content(DIGEST)


def test_an_image_that_was_removed_since_its_inspection_was_read_is_none(store: Store) -> None:
    add_some(store, 1)
    stored = store.inspection(1)
    store.prune(keep_gb=0)
    assert stored.image_stored
    assert store.image(stored) is None


def test_a_disk_without_room_is_an_error_and_nothing_is_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_some(store, 1)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFullError, match="No space left on device"):
            store.add(inspection(), b"a large image")
    assert store.counts()["n"] == 1
    assert store.check() == []
    assert store.add(inspection(), b"a large image") == 2
    assert store.prune().orphans == 0


@pytest.mark.parametrize("what", ["image", "row"])
def test_a_full_disk_is_an_error_until_there_is_room(what: str, tmp_path: Path, tiles: Detector) -> None:
    with small_disk(tmp_path) as folder, open_store(str(folder / "parts.db")) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        ids = add_some(store, 3)
        filler = fill(folder)
        image = b"image 0" if what == "row" else bytes(100_000)

        def add_many() -> None:
            for _ in range(100):  # pages of the database may have room for a few rows
                ids.append(store.add(inspection(), image))

        with pytest.raises(DiskFullError, match="free some space"):
            add_many()
        assert [one.id for one in store.inspections()] == ids[::-1]
        assert store.check() == []
        filler.unlink()
        assert store.add(inspection(), image) == ids[-1] + 1
        assert store.check() == []


WRITER = """
import os, sys, threading
from oddlens.store.inspection import Inspection
from oddlens.store.open import open_store

store, values = open_store(sys.argv[1]), eval(sys.argv[2])

def write(worker):
    for i in range(10_000):
        content = b"%d %d " % (worker, i) * 2000
        number = store.add(Inspection(**values), content, b"map of " + content)
        os.write(1, b"%d %d %d %d\\n" % (number, len(content), worker, i))  # in one piece, unlike print

for worker in (1, 2):
    threading.Thread(target=write, args=(worker,)).start()
"""


def test_what_was_acknowledged_survives_a_kill(store: Store, url: str) -> None:
    for acknowledged in (1, 6, 15):
        start = store.counts()["n"]
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url, repr(VALUES)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.kill()
        rest = writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        with open_store(url) as again:
            assert again.check() == []
            for line in lines:
                number, size, worker, i = map(int, line.split())
                content = again.image(again.inspection(number))
                assert content == b"%d %d " % (worker, i) * 2000
                assert len(content) == size
                assert again.map_png(again.inspection(number)) == b"map of " + content
            assert again.counts()["n"] >= start + len(lines)
            again.prune()
            assert len(stored_paths(again)) == again.prune().remaining
    assert store.check() == []


def test_the_detector_of_the_tests_has_the_digest_that_they_use(tiles: Detector) -> None:
    assert tiles.manifest.digest == DIGEST
