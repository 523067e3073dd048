"""A thread pool whose results come back in order, a bounded number of tasks ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class OrderedPool(Generic[T]):
    """Threads that work on submitted tasks; `results` returns what they return, in the order of submission.

    `threads` is their number, or another pool whose threads work for both.
    """

    def __init__(self, threads: int | OrderedPool[Any]) -> None:
        self._owns_threads = isinstance(threads, int)
        self._executor: ThreadPoolExecutor = (
            ThreadPoolExecutor(threads) if isinstance(threads, int) else threads._executor
        )
        self._pending: deque[Future[T]] = deque()

    def submit(self, work: Callable[[S], T], item: S) -> None:
        """Let a thread call `work(item)`."""
        self._pending.append(self._executor.submit(work, item))

    def results(self, max_pending: int = 0) -> Iterator[T]:
        """The oldest results, until at most `max_pending` tasks are left; waits for them.

        Raises:
            Exception: whatever a task raised.
        """
        while len(self._pending) > max_pending:
            yield self._pending.popleft().result()

    def __enter__(self) -> OrderedPool[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for future in self._pending:
            future.cancel()
        if self._owns_threads:  # without waiting: an abandoned generator may be collected in one of the pool's threads
            self._executor.shutdown(wait=False, cancel_futures=True)


def ordered_map(
    work: Callable[[S], T], items: Iterable[S], threads: int | OrderedPool[Any], ahead: int
) -> Generator[T]:
    """`work` of each item in order, by threads (or those of a pool) that are at most `ahead` items in front.

    >>> list(ordered_map(abs, [-1, 2, -3], threads=2, ahead=2))
    [1, 2, 3]
    """
    with OrderedPool[T](threads) as pool:
        for item in items:
            yield from pool.results(max_pending=ahead - 1)
            pool.submit(work, item)
        yield from pool.results()
