"""Freed memory stays with the process as long as it is asked to, and not longer."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from oddlens import Detector, TrainingSettings, memory

# Arrays of 48 MB, one after the other; says how many pages were cleared for seven before, inside and after, and how
# many went back to the system at the end.
COUNT = """
import resource
import numpy as np
from oddlens.memory import glibc, keeping_freed

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
print(int(glibc() is not None), before, inside, kept - resident(), cleared())
"""


def plain_environment() -> dict[str, str]:
    """This process's, without what changes how memory is allocated."""
    changing = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(changing)}


def counted(environment: dict[str, str]) -> list[int]:
    made = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, env=environment)
    return [int(word) for word in made.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_freed_is_used_again_and_given_back_at_the_end() -> None:
    is_glibc, before, inside, given_back, afterwards = counted(plain_environment())
    array = 48_000_000 // os.sysconf("SC_PAGE_SIZE")  # pages
    if not is_glibc or before < 6 * array / 512:  # even if pages were huge
        pytest.skip("no glibc, or a system that does not count the pages that it clears")
    assert inside < array / 4
    assert given_back > array / 2
    assert afterwards > 6 * array / 512


@pytest.mark.parametrize("setting", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}])
def test_what_the_user_set_stays(setting: dict[str, str]) -> None:
    code = "from oddlens.memory import glibc; print(glibc())"
    environment = plain_environment() | setting
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert made.stdout == "None\n"


class Recorder:
    """A C library that only writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.told.append((parameter, value))
        return 1

    def malloc_trim(self, _: Any) -> None:
        self.told.append((0, 0))


BEGINS = [(memory.MMAP_MAX, 0), (memory.TRIM_THRESHOLD, -1)]
ENDS = [
    (memory.MMAP_MAX, 65_536),
    (memory.MMAP_THRESHOLD, 32 * 2**20),
    (memory.TRIM_THRESHOLD, 64 * 2**20),
    (0, 0),
]


def test_it_ends_when_what_it_surrounds_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(memory, "glibc", lambda: recorder)
    with pytest.raises(KeyError), memory.keeping_freed():
        raise KeyError
    assert recorder.told == BEGINS + ENDS


def test_training_keeps_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(memory, "glibc", lambda: recorder)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)
    assert recorder.told == BEGINS + ENDS


def test_another_c_library_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "glibc", lambda: None)
    with memory.keeping_freed():
        kept = bytearray(100)
    assert len(kept) == 100
