"""Values that a process cannot inherit from the one that it was forked from."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process creates when it first needs it.

    A forked child has none of its parent's threads: whatever needs them waits forever, and so does a lock that one of
    them held. The parent's value is not freed in the child either, since runtimes wait for their threads then.
    """

    def __init__(self, create: Callable[[], T]) -> None:
        self._create = create
        self._slots: dict[int, tuple[threading.Lock, list[T]]] = {}  # by process

    def get(self) -> T:
        """The value of this process; the same one for all of its threads."""
        lock, values = self._slots.setdefault(os.getpid(), (threading.Lock(), []))
        with lock:
            if not values:
                values.append(self._create())
        return values[0]

    def __del__(self) -> None:
        for process, (_, values) in self._slots.items():
            if process != os.getpid():
                for value in values:
                    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
