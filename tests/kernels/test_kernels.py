"""Kernels are built once, safely or not at all; plans say which places a layer looks at."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from oddlens import kernels
from oddlens.kernels import plans

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
def test_kernels_are_built_once_and_kept(tmp_path: Path, compiler: str) -> None:
    folder = tmp_path / "cache" / "oddlens"
    first = kernels.built(compiler, folder)
    assert kernels.built(compiler, folder) == first
    assert (tmp_path / "calls").read_text() == "called\n"
    assert [path.name for path in folder.iterdir()] == [first.name]
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_another_source_is_another_library(tmp_path: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernels.built(compiler, tmp_path / "cache")
    other = tmp_path / "network.c"
    other.write_text(kernels.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(kernels, "SOURCE", other)
    assert kernels.built(compiler, tmp_path / "cache") != first


@needs_compiler
def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    strict = [COMPILER, *kernels.FLAGS, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "k.so", kernels.SOURCE]
    made = subprocess.run([str(part) for part in strict], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")


@needs_compiler
@pytest.mark.parametrize("which", ["folder", "library"])
def test_what_others_can_write_is_not_loaded(tmp_path: Path, compiler: str, which: str) -> None:
    built = kernels.built(compiler, tmp_path / "cache")
    (built if which == "library" else built.parent).chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        kernels.built(compiler, tmp_path / "cache")


@needs_compiler
def test_others_may_write_beside_the_folder(tmp_path: Path, compiler: str) -> None:
    (tmp_path / "oddlens").mkdir()
    (tmp_path / "oddlens").chmod(0o775)  # as downloads of data sets leave it under some settings
    assert kernels.built(compiler, tmp_path / "oddlens" / "kernels").exists()


@needs_compiler
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "network.c"
    broken.write_text("this is not C")
    monkeypatch.setattr(kernels, "SOURCE", broken)
    with pytest.raises(subprocess.CalledProcessError):
        kernels.built(str(COMPILER), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    assert kernels.path.__wrapped__() is None


def test_what_is_no_library_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.so").write_text("no library")
    monkeypatch.setattr(kernels, "path", lambda: tmp_path / "kernels.so")
    assert kernels.library.__wrapped__() is None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says so in a file")
def test_they_are_for_processors_with_bfloat16_and_no_matrix_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    amx = torch.cpu._is_amx_tile_supported()
    assert kernels.is_supported() == (torch.cpu._is_avx512_bf16_supported() and not amx)


@pytest.mark.parametrize(
    ("words", "asked", "wanted"),
    [
        ("avx512_bf16", None, True),
        ("avx512_bf16 amx_tile", None, False),
        ("avx512_bf16 amx_tile", "on", True),
        ("avx512f", "on", False),
    ],
)
def test_beside_a_matrix_unit_they_are_used_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, words: str, asked: str | None, wanted: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : fpu {words} sse\n")
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    if asked:
        monkeypatch.setenv("ODDLENS_KERNELS", asked)
    assert kernels.is_supported() == wanted


@needs_compiler
def test_building_may_begin_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.delenv("ODDLENS_KERNELS", raising=False)
    kernels.path.cache_clear()
    try:
        kernels.build_in_background()
        deadline = time.monotonic() + kernels.COMPILER_TIMEOUT
        while not (found := list(tmp_path.rglob("network-*.so"))):
            assert time.monotonic() < deadline, "nothing was built"
            time.sleep(0.05)
        assert found == [kernels.path()]
        assert list(kernels.cache_folder().iterdir()) == found
    finally:
        kernels.path.cache_clear()


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.setenv("ODDLENS_KERNELS", "off")
    assert kernels.path.__wrapped__() is None


def test_without_a_compiler_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_supported", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert kernels.path.__wrapped__() is None


def applied(table: plans.Table, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What a table says: (places in, C), (sets, C, N) -> (places out, N)."""
    beyond = np.vstack([values, np.zeros_like(values[:1])])  # place -1
    found: np.ndarray = np.einsum("psc,scn->pn", beyond[table], weights)
    return found


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-3, 4, shape).astype(np.float64)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_strided_table_is_a_convolution(stride: int) -> None:
    values, weights = random(6 * 8, 4), random(9, 4, 5)
    picture = torch.from_numpy(values).T.reshape(1, 4, 6, 8)
    kernel = torch.from_numpy(weights).permute(2, 1, 0).reshape(5, 4, 3, 3)
    want = F.conv2d(picture, kernel, stride=stride, padding=1)[0].flatten(1).T
    np.testing.assert_array_equal(applied(plans.strided(6, 8, stride), values, weights), want)


def test_a_doubling_table_is_a_transposed_convolution() -> None:
    values, weights = random(3 * 5, 4), random(16, 4, 2)
    picture = torch.from_numpy(values).T.reshape(1, 4, 3, 5)
    kernel = torch.from_numpy(weights).permute(1, 2, 0).reshape(4, 2, 4, 4)
    want = F.conv_transpose2d(picture, kernel, stride=2, padding=1)[0].flatten(1).T
    np.testing.assert_array_equal(applied(plans.doubling(3, 5), values, weights), want)


def test_corners_and_their_pixels_are_a_transposed_convolution() -> None:
    values, kernel = random(3 * 5, 4), random(4, 2, 4, 4)
    picture = torch.from_numpy(values).T.reshape(1, 4, 3, 5)
    want = F.conv_transpose2d(picture, torch.from_numpy(kernel), stride=2, padding=1)[0].permute(1, 2, 0).numpy()
    weights = np.empty((4, 4, 8))  # places around a corner, channels, and those of the pixels around it
    for place, pixel in np.ndindex(4, 4):
        (below, beside), (down, right) = divmod(place, 2), divmod(pixel, 2)
        weights[place, :, 2 * pixel : 2 * pixel + 2] = kernel[:, :, 2 - 2 * below + down, 2 - 2 * beside + right]
    outputs = applied(plans.corners(3, 5), values, weights)
    found, seen = np.full(want.size, np.nan), 0
    for numbers, (begin, inside) in zip(outputs, plans.pixels(3, 5, 2).tolist(), strict=True):
        for lane in range(8):
            if inside >> lane & 1:
                found[begin + lane % 4 + (20 if lane >= 4 else 0)] = numbers[lane]
                seen += 1
    assert seen == want.size
    np.testing.assert_array_equal(found, want.reshape(-1))


def test_pooled_places_come_window_by_window() -> None:
    rows, columns = plans.places(4, 6, pooled=True)
    windows = np.stack([rows // 2, columns // 2], axis=1).reshape(6, 4, 2)
    assert (windows == windows[:, :1]).all()
    assert [tuple(window[0]) for window in windows] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(y, x) for y in range(4) for x in range(6)]


TABLES = {
    "convolution": (plans.strided(6, 8, 1), 48),
    "pooled": (plans.strided(6, 8, 1, pooled=True), 48),
    "pooled to one place": (plans.strided(2, 2, 1, pooled=True), 4),
    "pooled to a line": (plans.strided(2, 6, 1, pooled=True), 12),
    "strided": (plans.strided(6, 8, 2), 48),
    "one place": (plans.strided(2, 2, 2), 4),
    "doubling": (plans.doubling(3, 5), 15),
    "corners": (plans.corners(3, 5), 15),
    "gathering": (plans.gathering(7), 7),
    "spreading": (plans.spreading(7), 1),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_reversed_table_carries_gradients_back(name: str) -> None:
    table, places = TABLES[name]
    weights = random(table.shape[1], 3, 2)
    values, slopes = random(places, 3), random(len(table), 2)
    back = applied(plans.reverse(table, places), slopes, weights.swapaxes(1, 2))
    assert (applied(table, values, weights) * slopes).sum() == (values * back).sum()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_plan_says_what_its_table_says_and_nothing_more(name: str, way: str) -> None:
    table, places = TABLES[name]
    if way == "backward":
        table, places = plans.reverse(table, places), len(table)
    together = "pooled" in name and way == "forward"
    row_starts, rows, tap_starts, taps, index_starts, index = plans.plan(table, places, 7, together=together)
    found = np.full(table.shape, -1)
    for phase in range(len(row_starts) - 1):
        mine, sets = rows[slice(*row_starts[phase : phase + 2])], taps[slice(*tap_starts[phase : phase + 2])]
        looks = index[slice(*index_starts[phase : phase + 2])].reshape(len(mine), len(sets))
        assert together or (looks < 7 * places).all(), "work for nothing"
        found[np.ix_(mine, sets)] = np.where(looks == 7 * places, -1, looks // 7)
    np.testing.assert_array_equal(found, table)
    assert sorted(rows.tolist()) == list(range(len(table)))
    if together:
        assert rows.tolist() == list(range(len(table)))
    assert len(row_starts) - 1 == (1 if together else len(np.unique(table >= 0, axis=0)))
