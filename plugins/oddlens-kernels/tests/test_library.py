"""The library of the kernels: how it is built, and on which machines it is used."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from oddlens_kernels import autoencoder, library
from oddlens_kernels.structures import LAYOUT

from oddlens.errors import PluginError, SettingsError
from oddlens.models import accelerators

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "oddlens_kernels"
COMPILER = shutil.which("cc")


def instructions() -> list[str]:
    """The compiler's flags for the instructions that network.c is built with."""
    (flags,) = re.findall(r"set\(INSTRUCTIONS (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    return str(flags).split()


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_the_sources_compile_without_warnings() -> None:
    strict = ["-std=gnu11", "-fsyntax-only", "-fopenmp", "-Wall", "-Wextra", "-Werror"]
    command = [str(COMPILER), *strict, *instructions(), *map(str, sorted(SOURCES.glob("*.c")))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_instruction_set_is_checked_before_it_is_used() -> None:
    checked = re.findall(r'__builtin_cpu_supports\("(.*?)"\)', (SOURCES / "processor.c").read_text())
    assert {flag.removeprefix("-m") for flag in instructions()} | {"amx-tile"} == set(checked)


def test_one_wheel_is_for_all_python_versions_and_brings_the_library() -> None:
    installed = distribution("oddlens-kernels")
    assert re.search(r"^Tag: py3-none-.*linux_x86_64$", installed.read_text("WHEEL") or "", re.MULTILINE)
    files = {path.name for path in installed.files or ()}
    assert "libkernels.so" in files
    assert not [name for name in files if name.endswith(".c")]


def test_oddlens_finds_the_kernels() -> None:
    assert autoencoder.accelerate in accelerators.installed()


def test_the_processor_is_judged_as_pytorch_judges_it() -> None:
    kind = library.MATRIX_UNIT if torch.cpu._is_amx_tile_supported() else library.SUPPORTED
    assert library.processor() == (kind if torch.cpu._is_avx512_bf16_supported() else 0)


@pytest.mark.parametrize(
    ("kind", "switch", "reason"),
    [
        (library.SUPPORTED, "", None),
        (library.SUPPORTED, "on", None),
        (library.SUPPORTED, "off", "ODDLENS_KERNELS is off"),
        (library.MATRIX_UNIT, "", "this processor has a matrix unit"),
        (library.MATRIX_UNIT, "on", None),
        (library.MATRIX_UNIT, "off", "ODDLENS_KERNELS is off"),
        (0, "", "this processor does not multiply bfloat16"),
        (0, "on", "this processor does not multiply bfloat16"),
    ],
)
def test_the_kernels_are_used_where_they_are_measured_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: int, switch: str, reason: str | None
) -> None:
    monkeypatch.setattr(library, "processor", lambda: kind)
    monkeypatch.setenv("ODDLENS_KERNELS", switch)
    actual = library.why_unused()
    assert actual == reason if reason is None else str(actual).startswith(reason)
    layers = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ConvTranspose2d(16, 1, 4, 2, 1)]
    assert (autoencoder.accelerate(layers, 8, 8, 1) is None) == (reason is not None)


def test_a_switch_with_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODDLENS_KERNELS", "of")
    with pytest.raises(SettingsError, match="ODDLENS_KERNELS is 'of': set it to on or off"):
        autoencoder.accelerate([], 8, 8, 1)


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens_kernels.library.LAYOUT", [*LAYOUT[:-1], LAYOUT[-1] + 8])
    with pytest.raises(PluginError, match="different versions: install oddlens-kernels again"):
        library.library.__wrapped__()


@pytest.mark.parametrize("content", [None, b"no library"], ids=["missing", "damaged"])
def test_a_library_that_cannot_be_loaded_is_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "libkernels.so").write_bytes(content)
    monkeypatch.setattr(library, "PATH", tmp_path / "libkernels.so")
    with pytest.raises(PluginError, match=r"^the kernels cannot be loaded \(.*\): install oddlens-kernels again$"):
        library.library.__wrapped__()


@pytest.mark.parametrize(
    ("switch", "code", "output"),
    [
        ("off", 0, "not used: ODDLENS_KERNELS is off\n"),
        ("of", 1, "error: ODDLENS_KERNELS is 'of': set it to on or off, or unset it\n"),
    ],
)
def test_a_command_says_whether_they_are_used(
    monkeypatch: pytest.MonkeyPatch, switch: str, code: int, output: str
) -> None:
    monkeypatch.setenv("ODDLENS_KERNELS", switch)
    done = subprocess.run([sys.executable, "-m", "oddlens_kernels"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (code, output)
