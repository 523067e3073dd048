"""Memory that is freed and soon needed again stays with the process, while something large is done over and over.

Each step of training frees arrays and asks for the same sizes again. glibc gives large ones back to the system each
time, which then clears their pages anew: up to a quarter of a step. Other C libraries stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt, from malloc.h
MOST_MMAPS = 65_536  # glibc's default
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # up to which glibc's own rule lets the threshold grow; it trims from twice that


@functools.cache
def glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextlib.contextmanager
def keeping_freed() -> Iterator[None]:
    """While this lasts, freed memory stays with the process; afterwards all that is free goes back to the system."""
    library = glibc()
    if library is None:
        yield
        return
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, MOST_MMAPS)
        library.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
        library.malloc_trim(0)
