"""Freed memory stays with the process as long as it is asked to, and not longer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from oddlens import memory

needs_glibc = pytest.mark.skipif(memory.glibc() is None, reason="only glibc is told to keep memory")

# Eight arrays of 48 MB, one after the other; says how many pages were cleared for the last seven, inside and after.
COUNT = """
import resource
import numpy as np
from oddlens.memory import keeping_freed

def cleared():
    np.ones(6_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(7):
        np.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

with keeping_freed():
    inside, kept = cleared(), resident()
print(inside, kept - resident(), cleared())
"""


@needs_glibc
def test_what_is_freed_is_used_again_and_given_back_at_the_end() -> None:
    environment = {**os.environ, "GLIBC_TUNABLES": ""}
    made = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=environment)
    inside, given_back, afterwards = (int(word) for word in made.stdout.split())
    array = 48_000_000 // os.sysconf("SC_PAGE_SIZE")  # pages
    assert inside < array / 4
    assert given_back > array / 2
    assert afterwards > 6 * array / 512  # each array anew, even if pages were huge
