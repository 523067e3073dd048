"""Values that each process creates for itself; another process is imitated by another process id."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from oddlens.io.per_process import PerProcess


def test_all_threads_of_a_process_get_the_same_value() -> None:
    barrier = threading.Barrier(4)
    value = PerProcess(object)

    def get() -> object:
        barrier.wait()
        return value.get()

    with ThreadPoolExecutor(4) as pool:
        assert len({id(future.result()) for future in [pool.submit(get) for _ in range(4)]}) == 1


def test_a_forked_process_gets_a_value_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    value = PerProcess(object)
    before = value.get()
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert value.get() is not before
    assert value.get() is value.get()


def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent was creating its value in another thread when it forked."""
    created, release = threading.Event(), threading.Event()

    def create() -> str:
        created.set()
        return "child" if release.is_set() or not release.wait(60) else "parent"

    value = PerProcess(create)
    thread = threading.Thread(target=value.get)
    thread.start()
    created.wait(60)
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr(value, "_create", lambda: "child")
    assert value.get() == "child"
    release.set()
    thread.join()


def test_a_value_of_the_parent_is_never_freed_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: list[str] = []
    value = PerProcess(lambda: runtime)
    assert value.get() is runtime
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: 1)
        count = sys.getrefcount(runtime)
        del value
        assert sys.getrefcount(runtime) == count


def test_a_value_is_freed_with_its_owner_in_the_same_process() -> None:
    runtime: list[str] = []
    value = PerProcess(lambda: runtime)
    value.get()
    count = sys.getrefcount(runtime)
    del value
    assert sys.getrefcount(runtime) < count


def test_an_error_is_raised_each_time() -> None:
    value = PerProcess(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            value.get()
