"""Group commits: one thread stores what several requests wait for in one transaction.

A transaction syncs the disk several times, which takes far longer than scoring a small image.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from itertools import islice

from oddlens.store.contents import sha256
from oddlens.store.store import NewInspection, Store

MAX_COMMIT = 64  # requests in a transaction

Ids = list[int]
Waiting = tuple[list[NewInspection], "Future[Ids]"]


class Committer:
    """A thread that stores inspections; `close` waits until all are stored."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def write_files(self, items: list[NewInspection]) -> None:
        """Write the images and maps of inspections, in the calling thread: several threads wait for a disk together.

        Raises:
            DiskFullError, StoreError, OddlensError: as `Store.add`.
        """
        for _, image, map_png in items:
            for content in (image, map_png):
                if content is not None:
                    self.store.files.write(content, sha256(content))

    def submit(self, items: list[NewInspection]) -> Future[Ids]:
        """Store inspections, all or none; the result has their ids, and whatever `Store.add_batch` raises."""
        future: Future[Ids] = Future()
        self._queue.put((items, future))
        return future

    def _run(self) -> None:
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
            ids = iter(self.store.add_batch([item for items, _ in waiting for item in items]))
        except Exception as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        for items, future in waiting:
            future.set_result(list(islice(ids, len(items))))

    def close(self) -> None:
        """Store what waits, and end the thread."""
        self._queue.put(None)
        self._thread.join()
