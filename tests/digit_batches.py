"""Batches of digits: their files and manifest, and an engine whose workers are threads of the tests' process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from oddlens.batch.image_manifest import list_images, write_manifest
from oddlens.batch.shards import Shard, ShardScorer, ShardScores, answer
from oddlens.batch.workers import Worker
from oddlens.data.image_set import DataSet
from oddlens.errors import OddlensError

N_DIGITS, N_SHARD = 130, 48


def write_digits(data: DataSet, folder: Path, count: int = N_DIGITS, start: int = 0) -> Path:
    """Write test digits as files, from one of them on; each is there as often as there are not enough of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.fromarray(data.test.image(i % len(data.test))[..., 0]).save(folder / f"{i:04}.png")
    return folder


def write_list(folder: Path, path: Path, group_by: str | None = None) -> Path:
    """Write the manifest of a folder."""
    write_manifest(path, list_images(str(folder), group_by), str(folder))
    return path


class ThreadWorker:
    """A worker in a thread; `before` is called before it scores a shard, and may raise what its future then raises."""

    def __init__(self, name: str, content: bytes, before: Callable[[Shard], object]) -> None:
        self.scorer, self.before = ShardScorer(name, content), before
        self.pool = ThreadPoolExecutor(1)

    def start(self) -> Future[str | OddlensError]:
        return self.pool.submit(lambda: self.scorer.runtime)

    def score(self, shard: Shard) -> Future[ShardScores | OddlensError]:
        return self.pool.submit(self._score, shard)

    def _score(self, shard: Shard) -> ShardScores | OddlensError:
        self.before(shard)
        return answer(self.scorer, shard)


class ThreadEngine:
    """An engine of threads."""

    def __init__(
        self, name: str, content: bytes, n_workers: int = 1, before: Callable[[Shard], object] = lambda _: None
    ) -> None:
        self.name, self.content, self.n_workers, self.before = name, content, n_workers, before
        self.workers: list[ThreadWorker] = []
        self.is_closed = False

    def hire(self) -> list[Worker]:
        new = [ThreadWorker(self.name, self.content, self.before) for _ in range(self.n_workers - len(self.workers))]
        self.workers += new
        return list(new)

    def dismiss(self, worker: Worker) -> None:
        self.workers = [other for other in self.workers if other is not worker]

    def close(self) -> None:
        self.is_closed = True
        for worker in self.workers:
            worker.pool.shutdown()
