"""Building and loading the C kernels."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from oddlens import kernels

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux" or platform.machine() != "x86_64",
    reason="kernels are built on Linux, for x86-64, with a C compiler",
)


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """A compiler that counts how often it was called."""
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\necho called >> {tmp_path}/calls\nexec {COMPILER} "$@"\n')
    script.chmod(0o755)
    return str(script)


@needs_compiler
def test_kernels_are_built_once_and_cached(tmp_path: Path, compiler: str) -> None:
    folder = tmp_path / "cache" / "oddlens"
    first = kernels.build(compiler, folder)
    assert kernels.build(compiler, folder) == first
    assert (tmp_path / "calls").read_text() == "called\n"
    assert [path.name for path in folder.iterdir()] == [first.name]
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_a_changed_source_gives_a_new_library(tmp_path: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernels.build(compiler, tmp_path / "cache")
    other = tmp_path / "network.c"
    other.write_text(kernels.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(kernels, "SOURCE", other)
    assert kernels.build(compiler, tmp_path / "cache") != first


@needs_compiler
def test_the_source_compiles_without_warnings(tmp_path: Path) -> None:
    strict = [COMPILER, *kernels.FLAGS, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "k.so", kernels.SOURCE]
    result = subprocess.run([str(part) for part in strict], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@needs_compiler
@pytest.mark.parametrize("which", ["folder", "library"])
def test_a_library_that_others_can_write_is_refused(tmp_path: Path, compiler: str, which: str) -> None:
    library = kernels.build(compiler, tmp_path / "cache")
    (library if which == "library" else library.parent).chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        kernels.build(compiler, tmp_path / "cache")


@needs_compiler
def test_others_may_write_to_the_parent_folder(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "oddlens").mkdir()
    (tmp_path / "oddlens").chmod(0o775)  # as downloads of data sets leave it under some settings
    assert kernels.build(compiler, tmp_path / "oddlens" / "kernels").exists()


@needs_compiler
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "network.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(kernels, "SOURCE", broken)
    with pytest.raises(subprocess.CalledProcessError):
        kernels.build(str(COMPILER), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    assert kernels.library_path.__wrapped__() is None


def test_a_file_that_is_no_library_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.so").write_text("no library")
    monkeypatch.setattr(kernels, "library_path", lambda: tmp_path / "kernels.so")
    assert kernels.library.__wrapped__() is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_kernels_are_for_processors_with_bfloat16_and_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    amx = torch.cpu._is_amx_tile_supported()
    assert kernels.is_supported() == (torch.cpu._is_avx512_bf16_supported() and not amx)


@pytest.mark.parametrize(
    ("flags", "switch", "supported"),
    [
        ("avx512_bf16", None, True),
        ("avx512_bf16 amx_tile", None, False),
        ("avx512_bf16 amx_tile", "on", True),
        ("avx512f", "on", False),
    ],
)
def test_on_processors_with_amx_the_kernels_must_be_switched_on(
    monkeypatch: pytest.MonkeyPatch, flags: str, switch: str | None, supported: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : fpu {flags} sse\n")
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    if switch:
        monkeypatch.setenv("ODDLENS_KERNELS", switch)
    assert kernels.is_supported() == supported


@needs_compiler
def test_kernels_can_be_built_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    kernels.library_path.cache_clear()
    try:
        kernels.build_in_background()
        deadline = time.monotonic() + kernels.COMPILER_TIMEOUT
        while not (libraries := list(tmp_path.rglob("network-*.so"))):
            assert time.monotonic() < deadline, "nothing was built"
            time.sleep(0.05)
        assert libraries == [kernels.library_path()]
        assert list(kernels.cache_folder().iterdir()) == libraries
    finally:
        kernels.library_path.cache_clear()


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.setenv("ODDLENS_KERNELS", "off")
    assert kernels.library_path.__wrapped__() is None


def test_without_a_compiler_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert kernels.library_path.__wrapped__() is None
