"""Memory that is freed and soon needed again stays with the process, while something large is done over and over.

Each step of training frees arrays and asks for the same sizes again. glibc often gives large ones back to the system,
which then clears their pages anew: up to a quarter of a step. Other C libraries stay as they are, and so does glibc
where its user has set one of the thresholds that decide it.
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
MAX_MMAPS = 65_536  # glibc's default
SETTINGS = ("trim_threshold", "mmap_threshold", "mmap_max")  # by which a user decides it from outside
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # up to which glibc's own rule lets the threshold grow; it trims from twice that

LOCK = threading.RLock()  # a generator that is collected inside may end its use there
USERS: list[None] = []  # one entry for each that needs freed memory kept


@functools.cache
def glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc and its user left those thresholds alone."""
    tuned = os.environ.get("GLIBC_TUNABLES", "")
    asked = any(f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}" in tuned for name in SETTINGS)
    if asked or sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """While this lasts, freed memory stays with the process; afterwards all that is free goes back to the system.

    It holds for the whole process; where several overlap, the last to end ends it.
    """
    library = glibc()
    if library is None:
        yield
        return
    with LOCK:
        USERS.append(None)
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with LOCK:
            USERS.pop()
            if not USERS:
                library.mallopt(MMAP_MAX, MAX_MMAPS)
                library.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
                library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
                library.malloc_trim(ctypes.c_size_t(0))
