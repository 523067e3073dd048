"""Shards given to workers, one at a time to each, whatever engine runs them and however often a worker dies."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

from oddlens.batch.shards import Shard, ShardScores
from oddlens.errors import ArtifactError, OddlensError
from oddlens.io.text import first_line

MAX_ATTEMPTS = 3  # to score a shard, or to start a worker, that kills the process which does it
POLL_SECONDS = 1.0  # between looks for workers that could join
PATIENCE_SECONDS = 60.0  # for the first worker, before somebody is told
NO_WORKER = "no worker is ready yet, still waiting: are there free processors?"

Answer = Future[Any]  # of a worker that starts, or scores


class WorkerDiedError(Exception):
    """Raised by the future of a worker whose process, or machine, is gone."""

    def __init__(self, reason: str, with_machine: bool = False) -> None:
        super().__init__(reason)
        self.with_machine = with_machine  # which says nothing about the images that it scored


class Worker(Protocol):
    """A process with a detector, which scores one shard at a time; its futures raise `WorkerDiedError`."""

    def start(self) -> Future[str | OddlensError]:
        """Load the detector; gives the name of the runtime."""

    def score(self, shard: Shard) -> Future[ShardScores | OddlensError]:
        """Score a shard."""


class Engine(Protocol):
    """Where workers run."""

    def hire(self) -> list[Worker]:
        """New workers, as many as there can be more now."""

    def dismiss(self, worker: Worker) -> None:
        """Forget a worker that died."""

    def close(self) -> None:
        """End all workers."""


class Team:
    """The workers of one run; `runtime` is the one that all of them must have, so that scores are bitwise the same.

    `say` is called where something takes long.

    A worker gets its next shard when it is done with one, so that as many shards are in memory as there are workers. A
    shard whose worker died goes to another one, `MAX_ATTEMPTS` times in all, not counting machines that left.
    """

    def __init__(self, engine: Engine, runtime: str, say: Callable[[str], None] = lambda note: None) -> None:
        self.engine, self.runtime, self.say = engine, runtime, say
        self.started: float | None = None  # of `time.perf_counter`: when the first worker was ready
        self.deaths = 0
        self._running: dict[Answer, tuple[Worker, Shard | None]] = {}  # without a shard, it loads its detector
        self._idle, self._returned = deque[Worker](), deque[Shard]()
        self._attempts = Counter[int | None]()  # deaths by shard; None: while starting

    def score(self, shards: Iterator[Shard]) -> Generator[tuple[Shard, ShardScores]]:
        """Score all shards, in whatever order they are done.

        Raises:
            OddlensError: a worker says so, or workers die again and again; the message names the images.
        """
        upcoming, due = next(shards, None), time.perf_counter() + PATIENCE_SECONDS
        try:
            while upcoming is not None or self._returned or any(shard for _, shard in self._running.values()):
                if upcoming is not None or self._returned:
                    for worker in self.engine.hire():
                        self._running[worker.start()] = (worker, None)
                upcoming = self._assign(upcoming, shards)
                if not self._running:
                    time.sleep(POLL_SECONDS)
                if self.started is None and time.perf_counter() > due:
                    self.say(NO_WORKER)
                    due = float("inf")
                for future in wait(self._running, POLL_SECONDS, FIRST_COMPLETED).done:
                    result = self._finish(future)
                    upcoming = self._assign(upcoming, shards)  # first, so that no worker waits for the caller
                    if result is not None:
                        yield result
        finally:
            self.engine.close()

    def _assign(self, upcoming: Shard | None, shards: Iterator[Shard]) -> Shard | None:
        """Give the idle workers shards; returns the shard that comes next."""
        while self._idle and (self._returned or upcoming is not None):
            worker = self._idle.popleft()
            if self._returned:
                shard = self._returned.popleft()
            else:
                assert upcoming is not None  # noqa: S101 - says the condition above
                shard, upcoming = upcoming, next(shards, None)
            self._running[worker.score(shard)] = (worker, shard)
        return upcoming

    def _finish(self, future: Answer) -> tuple[Shard, ShardScores] | None:
        worker, shard = self._running.pop(future)
        try:
            result = future.result()
        except WorkerDiedError as error:
            self.engine.dismiss(worker)
            self._count_death(shard, error)
            return None
        if isinstance(result, OddlensError):
            raise result
        self._idle.append(worker)
        if isinstance(result, ShardScores):
            assert shard is not None  # noqa: S101 - there are scores of shards only
            return shard, result
        self._check_runtime(result)
        return None

    def _check_runtime(self, runtime: str) -> None:
        if runtime != self.runtime:
            raise ArtifactError(
                f"a worker scores with {runtime}, and this process with {self.runtime}, so that scores would differ: "
                "install the same versions on all machines"
            )
        self.started = self.started or time.perf_counter()
        self._attempts.pop(None, None)

    def _count_death(self, shard: Shard | None, error: WorkerDiedError) -> None:
        self.deaths += 1
        if shard is not None:
            self._returned.append(shard)
        if error.with_machine:
            return
        key = None if shard is None else shard.index
        self._attempts[key] += 1
        if self._attempts[key] < MAX_ATTEMPTS:
            return
        if shard is None:
            raise OddlensError(
                f"workers die while they load the detector ({first_line(error)}); look for too little memory, or in a "
                'program of your own start the batch below `if __name__ == "__main__":`'
            )
        raise OddlensError(
            f"{shard}: {MAX_ATTEMPTS} workers died while scoring these ({first_line(error)}); use fewer --workers if "
            "memory is short, or move the image away that does it, so that it becomes an error row. What is scored is "
            "not lost: run the same command again"
        )
