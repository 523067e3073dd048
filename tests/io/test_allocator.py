"""Freed memory stays in the process inside the context, and only there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from oddlens.cli.session import command
from oddlens.config.base import TrainingSettings
from oddlens.detector.detector import Detector
from oddlens.io import allocator

# Arrays of 48 MB, one after the other; prints how many pages were cleared for seven of them before, inside and after
# the context, and how many went back to the system at its end.
COUNT = """
import resource
import numpy as np
from oddlens.io.allocator import keep_freed_memory

def cleared():
    np.ones(6_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(7):
        np.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

before = cleared()
with keep_freed_memory():
    inside, retained = cleared(), resident()
print(before, inside, retained - resident(), cleared())
"""


def plain_environment() -> dict[str, str]:
    """The environment of this process without the variables that change memory allocation."""
    changing = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(changing)}


def output_of(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_reused_and_returned_at_the_end() -> None:
    before, inside, returned, afterwards = (int(word) for word in output_of(COUNT, plain_environment()).split())
    array = 48_000_000 // os.sysconf("SC_PAGE_SIZE")  # pages
    if before < 6 * array / 512:  # even if pages were huge
        pytest.skip("this system does not count cleared pages")
    assert inside < array / 4
    assert returned > array / 2
    assert afterwards > 6 * array / 512


@pytest.mark.parametrize(
    ("setting", "is_used"),
    [
        ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}, False),
        ({"MALLOC_ARENA_MAX": "2"}, True),  # does not affect when memory is returned
    ],
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_thresholds_set_by_the_user_are_respected(setting: dict[str, str], is_used: bool) -> None:
    code = "from oddlens.io.allocator import glibc; print(glibc() is not None)"
    assert output_of(code, plain_environment() | setting) == f"{is_used}\n"


class Recorder:
    """A C library that only records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return 1

    def malloc_trim(self, _: Any) -> None:
        self.calls.append((0, 0))


ENTER_CALLS = [(allocator.MMAP_MAX, 0), (allocator.TRIM_THRESHOLD, -1)]
EXIT_CALLS = [
    (allocator.MMAP_MAX, 65_536),
    (allocator.MMAP_THRESHOLD, 32 * 2**20),
    (allocator.TRIM_THRESHOLD, 64 * 2**20),
    (0, 0),
]


def test_defaults_are_restored_when_the_block_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    with pytest.raises(KeyError), allocator.keep_freed_memory():
        raise KeyError
    assert recorder.calls == ENTER_CALLS + EXIT_CALLS


def test_the_last_of_several_contexts_restores_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    first, second = allocator.keep_freed_memory(), allocator.keep_freed_memory()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert recorder.calls == ENTER_CALLS + ENTER_CALLS
    second.__exit__(None, None, None)
    assert recorder.calls == ENTER_CALLS + ENTER_CALLS + EXIT_CALLS


def test_commands_keep_freed_memory_while_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    with command(as_json=True, threads=None):
        assert recorder.calls == ENTER_CALLS
    assert recorder.calls == ENTER_CALLS + EXIT_CALLS


def test_the_library_itself_leaves_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(allocator, "glibc", lambda: recorder)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    detector = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(pixels, hold_out=False)
    detector.score(pixels)
    assert recorder.calls == []


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "glibc", lambda: None)
    entered = False
    with allocator.keep_freed_memory():
        entered = True
    assert entered
