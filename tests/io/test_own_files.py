"""What oddlens wrote is recognized, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from oddlens.batch.verdict_files import write_map
from oddlens.io.own_files import has_own_chunk, is_own_png
from oddlens.reporting import figures


def png_with_text(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("L", (8, 8)).save(path, pnginfo=info)
    return path


def test_figures_and_maps_are_recognized(tmp_path: Path) -> None:
    history = [{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.4}]
    assert is_own_png(figures.save_figure(figures.training_curve(history), tmp_path / "figure.png"))
    image = np.full((40, 30, 3), 90, np.uint8)
    write_map(tmp_path / "map.png", image, np.ones((8, 8), np.float32), 0.5, 255)
    assert is_own_png(tmp_path / "map.png")


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"Software": "Matplotlib version 3.10"},
        {"Software": "oddlensish 1"},
        {"Comment": "Software\0oddlens 1"},
        {"Comment": "x" * 400, "Software": "oddlens 0.1.0"},  # beyond what is read
    ],
)
def test_pictures_of_other_programs_are_not(tmp_path: Path, texts: dict[str, str]) -> None:
    assert not is_own_png(png_with_text(tmp_path / "a.png", **texts))


def test_the_chunk_is_recognized_behind_other_chunks(tmp_path: Path) -> None:
    assert is_own_png(png_with_text(tmp_path / "a.png", Comment="shift 2", Software="oddlens 9.9"))


@pytest.mark.parametrize(
    "head", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, b"Software\0oddlens "]
)
def test_damaged_heads_are_not_recognized(head: bytes) -> None:
    assert not has_own_chunk(head)


def test_a_file_that_cannot_be_read_is_not_recognized(tmp_path: Path) -> None:
    assert not is_own_png(tmp_path / "missing.png")
    assert not is_own_png(tmp_path)
