"""Keep freed memory in the process during repeated large allocations (glibc only).

Each training step frees arrays and allocates the same sizes again. glibc often returns large arrays to the system,
which then clears their pages again: up to a quarter of a step. Other C libraries are left alone, and so is glibc if the
user has set one of the thresholds that control this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
import threading
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt, from malloc.h
DEFAULT_MAX_MMAPS = 65_536  # glibc's default
TUNABLES = ("trim_threshold", "mmap_threshold", "mmap_max")  # environment settings with which a user controls it
MAX_MMAP_THRESHOLD = 32 * 2**20  # upper limit of glibc's dynamic threshold; it trims at twice that

LOCK = threading.RLock()  # reentrant: a generator collected inside may exit its context there
ACTIVE_USERS: list[None] = []  # one entry per active context


@functools.cache
def glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc and the user has not set its thresholds; otherwise None."""
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    is_tuned = any(f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}" in tuned for name in TUNABLES)
    if is_tuned or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process inside the block; afterwards, return all free memory to the system.

    This affects the whole process; with overlapping blocks, the last one to exit restores the defaults.
    """
    library = glibc()
    if library is None:
        yield
        return
    with LOCK:
        ACTIVE_USERS.append(None)
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with LOCK:
            ACTIVE_USERS.pop()
            if not ACTIVE_USERS:
                library.mallopt(MMAP_MAX, DEFAULT_MAX_MMAPS)
                library.mallopt(MMAP_THRESHOLD, MAX_MMAP_THRESHOLD)
                library.mallopt(TRIM_THRESHOLD, 2 * MAX_MMAP_THRESHOLD)
                library.malloc_trim(ctypes.c_size_t(0))
