"""PyTorch's threads: a single one for a while, without a change for other threads, and always in a forked process."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import oddlens
from oddlens.io.per_process import PerProcess

# Before this import of torch, another module of the program may have used it, in this process or before a fork.
FIRST_PROCESS = oddlens.PROCESS if "torch" in sys.modules else os.getpid()

import torch  # noqa: E402

LOCK = PerProcess(threading.Lock)  # held while the number for new threads is 1 for a moment


def is_forked() -> bool:
    """Whether PyTorch may have been used before this process was forked; its threads did not survive that."""
    return os.getpid() != FIRST_PROCESS


def get_threads() -> int:
    """Number of PyTorch's threads in the calling thread."""
    with LOCK.get():
        return torch.get_num_threads()


@contextmanager
def single_thread() -> Iterator[None]:
    """Let PyTorch compute in the calling thread alone; other threads keep their number."""
    with LOCK.get():
        before = torch.get_num_threads()
        if before > 1:
            torch.set_num_threads(1)  # also for threads that use PyTorch for the first time after this
            others = threading.Thread(target=torch.set_num_threads, args=(before,))
            others.start()
            others.join()
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


@contextmanager
def fork_safe() -> Iterator[None]:
    """Let PyTorch compute with all threads, in a forked process with one: more would wait for the parent's forever."""
    with single_thread() if is_forked() else nullcontext():
        yield
