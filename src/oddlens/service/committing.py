"""Group commits: one thread stores what several requests wait for in one transaction, once others wrote their files.

A transaction syncs the disk several times, which takes far longer than scoring a small image.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from oddlens.store.store import NewInspection, PreparedInspection, Store

MAX_COMMIT = 64  # requests in a transaction
NICE = 10  # of the threads that store
WRITERS = 8  # requests whose files are written at the same time: they wait for the disk, not for the processor

Ids = list[int]
Waiting = tuple[list[PreparedInspection], "Future[Ids]"]


class Committer:
    """Threads that write files, and one that stores inspections; `close` waits until all are stored."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._writers = ThreadPoolExecutor(WRITERS, "writer", initializer=give_way)
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def submit(self, items: list[NewInspection]) -> Future[Ids]:
        """Store inspections, all or none; the result has their ids, and whatever `Store.add_batch` raises."""
        future: Future[Ids] = Future()
        self._writers.submit(self._write, items, future)
        return future

    def _write(self, items: list[NewInspection], future: Future[Ids]) -> None:
        """Write images and maps, and let the inspections wait for the next transaction."""
        try:
            prepared = self.store.prepare(items)
        except Exception as error:
            future.set_exception(error)
        else:
            self._queue.put((prepared, future))

    @property
    def n_waiting(self) -> int:
        """Requests whose files are written and that wait for a transaction."""
        return self._queue.qsize()

    def _run(self) -> None:
        give_way()
        while (first := self._queue.get()) is not None:
            waiting, last = [first], False
            while len(waiting) < MAX_COMMIT and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    last = True
                    break
                waiting.append(item)
            self._commit(waiting)
            if last:
                return

    def _commit(self, waiting: list[Waiting]) -> None:
        try:
            ids = iter(self.store.commit([one for prepared, _ in waiting for one in prepared]))
        except Exception as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for prepared, future in waiting:
            future.set_result(list(islice(ids, len(prepared))))

    def close(self) -> None:
        """Store what waits, and end the threads."""
        self._writers.shutdown()
        self._queue.put(None)
        self._thread.join()


def give_way() -> None:
    """Let the calling thread yield to those that score, as it wakes often and works little; on Linux only."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
