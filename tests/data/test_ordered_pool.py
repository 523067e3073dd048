"""Results are in the order of the items, and no thread outlives the pool."""

from __future__ import annotations

import threading
import time

import pytest
from thread_pools import have_ended, pool_threads

from oddlens.data.ordered_pool import OrderedPool, ordered_map


def test_results_are_in_the_order_of_the_items_whichever_thread_is_first() -> None:
    def work(i: int) -> int:
        time.sleep(0.02 if i % 4 == 0 else 0)
        return i * i

    assert list(ordered_map(work, range(40), 4, 8)) == [i * i for i in range(40)]
    assert list(ordered_map(work, [], 4, 8)) == []


def test_at_most_ahead_items_are_started_before_a_result_is_consumed() -> None:
    started: list[int] = []
    results = ordered_map(started.append, iter(range(20)), 2, 5)
    next(results)
    assert len(started) <= 5
    next(results)
    assert len(started) <= 6
    results.close()


def test_an_error_is_raised_in_the_place_of_its_item_and_ends_the_threads() -> None:
    def work(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    before = pool_threads()
    results = ordered_map(work, range(9), 4, 4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    started = pool_threads() - before
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert started
    assert have_ended(started)


def test_results_leaves_the_allowed_number_of_tasks_pending() -> None:
    with OrderedPool[int](2) as pool:
        for i in range(5):
            pool.submit(abs, -i)
        assert list(pool.results(max_pending=3)) == [0, 1]
        assert list(pool.results()) == [2, 3, 4]


def test_one_of_its_own_threads_may_close_the_generator() -> None:
    """Garbage is collected by whichever thread comes to it, and no thread can wait for its own end."""
    suspended, outcome = threading.Event(), list[object]()

    def work(i: int) -> int:
        if i == 1:
            suspended.wait(10)
            try:
                results.close()
                outcome.append("ended")
            except RuntimeError as error:
                outcome.append(error)
        return i

    before = pool_threads()
    results = ordered_map(work, range(9), 4, 2)
    assert next(results) == 0
    started = pool_threads() - before
    suspended.set()
    assert have_ended(started)
    assert outcome == ["ended"]


def test_a_pool_may_work_with_the_threads_of_another() -> None:
    before = pool_threads()
    with OrderedPool[int](1) as owner:
        names = list(ordered_map(lambda i: threading.current_thread().name, range(3), owner, 2))
        owner.submit(abs, -1)
        assert list(owner.results()) == [1], "the threads are still there"
        assert names == [thread.name for thread in pool_threads() - before] * 3
        started = pool_threads() - before
    assert have_ended(started)


def test_the_end_of_a_pool_cancels_its_own_tasks_alone() -> None:
    busy, release = threading.Event(), threading.Event()

    def work(_: int) -> bool:
        busy.set()
        return release.wait(10)

    calls: list[int] = []
    with OrderedPool[object](1) as owner:
        owner.submit(work, 0)
        busy.wait(10)
        with OrderedPool[object](owner) as guest:
            guest.submit(calls.append, 1)
            owner.submit(calls.append, 2)
        release.set()
        assert list(owner.results()) == [True, None]
    assert calls == [2]
