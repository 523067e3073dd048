"""Workers on this machine: processes that are spawned, each with a detector of one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from oddlens.batch.shards import Shard, ShardScorer, ShardScores, answer
from oddlens.batch.workers import Worker, WorkerDiedError
from oddlens.errors import OddlensError


class ProcessPool:
    """An engine of `n_workers` processes for an exported detector, by its name and content."""

    def __init__(self, name: str, content: bytes, n_workers: int) -> None:
        self.name, self.content, self.n_workers = name, content, n_workers
        self._workers: list[ProcessWorker] = []

    def hire(self) -> list[Worker]:
        """New processes in place of those that died."""
        new = [ProcessWorker(self.name, self.content) for _ in range(self.n_workers - len(self._workers))]
        self._workers += new
        return list(new)

    def dismiss(self, worker: Worker) -> None:
        """Forget a worker that died."""
        self._workers = [other for other in self._workers if other is not worker]

    def close(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            worker.close()


class ProcessWorker:
    """A process, and a thread that waits for its answers."""

    def __init__(self, name: str, content: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, name, content), daemon=True)
        self.process.start()
        other_end.close()
        self._thread = ThreadPoolExecutor(1)

    def start(self) -> Future[str | OddlensError]:
        """Load the detector."""
        return self._thread.submit(self._receive)

    def score(self, shard: Shard) -> Future[ShardScores | OddlensError]:
        """Score a shard."""
        return self._thread.submit(self._ask, shard)

    def _ask(self, shard: Shard) -> Any:
        with contextlib.suppress(OSError):  # gone; receiving says so
            self.connection.send(shard)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise WorkerDiedError(f"process {self.process.pid} ended with code {self.process.exitcode}") from None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self._thread.shutdown()
        self.connection.close()


def serve(connection: Connection, name: str, content: bytes) -> None:
    """Score shards in a process of its own until the other end of the connection, or the parent process, is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes of a terminal; the parent ends this
    threading.Thread(target=exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        try:
            scorer = ShardScorer(name, content)
        except OddlensError as error:
            connection.send(error)
            return
        connection.send(scorer.runtime)
        while True:
            connection.send(answer(scorer, connection.recv()))


def exit_with_parent() -> None:
    """End this process when its parent is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
