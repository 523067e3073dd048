from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE, inspection

from oddlens.detector.detector import Detector
from oddlens.errors import DiskFullError
from oddlens.service.committing import NICE, Committer, give_way
from oddlens.store.open import open_store
from oddlens.store.store import NewInspection, PreparedInspection


def items(names: list[str]) -> list[NewInspection]:
    return [(inspection(name=name), name.encode(), None) for name in names]


def test_what_waits_together_is_stored_in_one_transaction_and_each_gets_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(Detector.load(DETECTOR_FILE), DETECTOR_FILE)
        begun, go_on, sizes, add = threading.Event(), threading.Event(), list[int](), store.commit

        def add_slowly(batch: list[PreparedInspection]) -> list[int]:
            sizes.append(len(batch))
            begun.set()
            assert go_on.wait(60)
            return add(batch)

        monkeypatch.setattr(store, "commit", add_slowly)
        committer = Committer(store)
        futures = [committer.submit(items(["a"]))]
        assert begun.wait(60)
        futures += [committer.submit(items(names)) for names in (["b", "c"], [], ["d"])]
        while committer.n_waiting < 3:
            time.sleep(0.001)
        go_on.set()
        committer.close()
        assert sizes == [1, 3]
        names = [[store.inspection(number).name for number in future.result(0)] for future in futures]
        assert names == [["a"], ["b", "c"], [], ["d"]]


def test_a_full_disk_fails_those_that_wait_and_later_ones_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(batch: list[PreparedInspection]) -> list[int]:
        raise DiskFullError("no room")

    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(Detector.load(DETECTOR_FILE), DETECTOR_FILE)
        committer = Committer(store)
        with monkeypatch.context() as patch:
            patch.setattr(store, "commit", full)
            with pytest.raises(DiskFullError):
                committer.submit(items(["a"])).result(60)
        assert committer.submit(items(["a"])).result(60) == [1]
        committer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux")
def test_threads_that_store_give_way_to_those_that_score() -> None:
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        nice = pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert nice >= NICE
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_file_that_cannot_be_written_fails_its_own_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(Detector.load(DETECTOR_FILE), DETECTOR_FILE)
        write = store.files.write

        def write_some(content: bytes, digest: str) -> None:
            if content == b"large":
                raise DiskFullError("no room")
            write(content, digest)

        monkeypatch.setattr(store.files, "write", write_some)
        committer = Committer(store)
        failed, stored = committer.submit(items(["small", "large"])), committer.submit(items(["a"]))
        committer.close()
        with pytest.raises(DiskFullError):
            failed.result(0)
        assert stored.result(0) == [1]
        assert store.check() == []
