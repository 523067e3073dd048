"""Freed memory stays with the process as long as it is asked to, and not longer."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from oddlens.config.base import TrainingSettings
from oddlens.detector.detector import Detector
from oddlens.io import allocator

# Arrays of 48 MB, one after the other; says how many pages were cleared for seven before, inside and after, and how
# many went back to the system at the end.
COUNT = """
import resource
import numpy as np
from oddlens.io.allocator import keeping_freed

def cleared():
    np.ones(6_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(7):
        np.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

before = cleared()
with keeping_freed():
    inside, kept = cleared(), resident()
print(before, inside, kept - resident(), cleared())
"""


def plain_environment() -> dict[str, str]:
    """This process's, without what changes how memory is allocated."""
    changing = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(changing)}


def said(code: str, environment: dict[str, str]) -> str:
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return made.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_what_is_freed_is_used_again_and_given_back_at_the_end() -> None:
    before, inside, given_back, afterwards = (int(word) for word in said(COUNT, plain_environment()).split())
    array = 48_000_000 // os.sysconf("SC_PAGE_SIZE")  # pages
    if before < 6 * array / 512:  # even if pages were huge
        pytest.skip("this system does not count the pages that it clears")
    assert inside < array / 4
    assert given_back > array / 2
    assert afterwards > 6 * array / 512


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, False),
        ({"MALLOC_ARENA_MAX": "2"}, True),  # says nothing of when memory goes back
    ],
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_thresholds_that_the_user_set_stay(setting: dict[str, str], told: bool) -> None:
    code = "from oddlens.io.allocator import glibc; print(glibc() is not None)"
    assert said(code, plain_environment() | setting) == f"{told}\n"


class Recorder:
    """A C library that only writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.told.append((parameter, value))
        return 1

    def malloc_trim(self, _: Any) -> None:
        self.told.append((0, 0))


BEGINS = [(allocator.MMAP_MAX, 0), (allocator.TRIM_THRESHOLD, -1)]
ENDS = [
    (allocator.MMAP_MAX, 65_536),
    (allocator.MMAP_THRESHOLD, 32 * 2**20),
    (allocator.TRIM_THRESHOLD, 64 * 2**20),
    (0, 0),
]


def test_it_ends_when_what_it_surrounds_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    with pytest.raises(KeyError), allocator.keep_freed_memory():
        raise KeyError
    assert recorder.told == BEGINS + ENDS


def test_the_last_of_several_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    first, second = allocator.keep_freed_memory(), allocator.keep_freed_memory()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert recorder.told == BEGINS + BEGINS
    second.__exit__(None, None, None)
    assert recorder.told == BEGINS + BEGINS + ENDS


def test_training_keeps_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)
    assert recorder.told == BEGINS + ENDS


def test_another_c_library_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "glibc", lambda: None)
    entered = False
    with allocator.keep_freed_memory():
        entered = True
    assert entered
