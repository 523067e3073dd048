"""Detector files that are cut short or have a flipped bit are refused by an error of oddlens, or are unharmed."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError

TESTS = Path(__file__).parent.parent
STORED = ["digits.safetensors", "tiles.onnx"]
FAMILIES = [
    "autoencoder",
    "dictionary",
    "rotation",
    "defects",
    "features",
    "padim",
    "patchcore",
    "ensemble",
    "crossfit",
]
MAX_MEMORY = 2**28  # bytes more than before, for files of up to 20 MB


def cut(content: bytes, place: int) -> bytes:
    return content[:place]


def flip(content: bytes, place: int) -> bytes:
    damaged = bytearray(content)
    damaged[place] ^= 1 << place % 8
    return bytes(damaged)


def outcomes(path: Path, damage: Callable[[bytes, int], bytes], count: int) -> Counter[str]:
    """What loading gives after damage at random places, half of them in the first and last kilobytes."""
    rng, content = np.random.default_rng(0), path.read_bytes()
    digest, counts, size = Detector.load(path).manifest.digest, Counter[str](), len(content)
    edge = min(size, 4096)
    places = np.concatenate(
        [
            rng.integers(0, edge, count // 4),
            size - 1 - rng.integers(0, edge, count // 4),
            rng.integers(0, size, count // 2),
        ]
    )
    for place in places.tolist():
        try:
            loaded = Detector.load(path, content=damage(content, place))
        except ArtifactError as error:
            assert "\n" not in str(error)  # noqa: PT017
            counts["digest differs" if "digest" in str(error) else "refused"] += 1
        else:
            assert loaded.manifest.digest == digest, place
            counts["unharmed"] += 1
    return counts


def check_damage(path: Path, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cuts, flips = outcomes(path, cut, count), outcomes(path, flip, count)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{path.name} of {path.stat().st_size:,} bytes: cut {dict(cuts)}, flipped {dict(flips)}, {used:,} bytes")
    assert cuts["unharmed"] == 0
    assert flips["digest differs"] > 0
    assert used < MAX_MEMORY + 8 * path.stat().st_size


@pytest.mark.parametrize("name", STORED)
def test_a_damaged_file_is_refused(name: str) -> None:
    check_damage(TESTS / "compatibility" / name, 40)


@pytest.mark.survive
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_damaged_file_of_each_family_is_refused(family: str, suffix: str, tmp_path: Path) -> None:
    np.save(tmp_path / "normal.npy", np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8))
    forms: dict[str, list[object]] = {
        "ensemble": ["--plan", TESTS / "compatibility" / "plan.json"],
        "crossfit": ["--detector", "dictionary", "--folds", "2"],
    }
    options = forms.get(family, ["--detector", family])
    epochs = ["--epochs", "1"] if family in ("autoencoder", "rotation", "defects") else []
    path = tmp_path / "part.safetensors"
    oddlens("fit", tmp_path / "normal.npy", "-o", path, *options, *epochs)
    if suffix == ".onnx":
        oddlens("export", path, "-o", tmp_path / "part.onnx")
    check_damage(path.with_suffix(suffix), 1000)


def oddlens(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "oddlens", *map(str, arguments)], check=True)
