"""Images are known by their content; GIF and the Netpbm formats are decoded to exact values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oddlens.data.image_header import HEAD_BYTES, ImageInfo, is_image
from oddlens.data.image_io import decode, probe
from oddlens.errors import ImageError

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
DEEP = np.random.default_rng(1).integers(0, 4096, (6, 9), dtype=np.uint16)


def netpbm(path: Path, magic: str, maximum: int | None, pixels: np.ndarray, comment: str = "") -> Path:
    """A binary Netpbm file."""
    levels = pixels.astype(">u2").tobytes() if maximum is not None and maximum > 255 else pixels.astype("u1").tobytes()
    header = f"{magic}\n{comment}{pixels.shape[1]} {pixels.shape[0]}\n" + ("" if maximum is None else f"{maximum}\n")
    path.write_bytes(header.encode() + levels)
    return path


def check(path: Path, expected: np.ndarray) -> None:
    """The file decodes to exactly these pixels, and `probe` says so before."""
    pixels = decode(path)
    np.testing.assert_array_equal(pixels, expected.reshape(*expected.shape[:2], -1))
    bits = 8 if expected.dtype == np.uint8 else 16
    assert (pixels.dtype, pixels.flags.c_contiguous) == (expected.dtype, True)
    assert probe(path) == ImageInfo(6, 9, 3 if expected.ndim == 3 else 1, bits)  # type: ignore[arg-type]
    assert is_image(path.read_bytes()[:HEAD_BYTES])


def test_eight_bit_pgm_and_ppm_keep_every_value(tmp_path: Path) -> None:
    check(netpbm(tmp_path / "a.pgm", "P5", 255, GREY), GREY)
    check(netpbm(tmp_path / "a.pnm", "P5", 255, GREY, "# shift 2\n# line 3\n"), GREY)
    check(netpbm(tmp_path / "a.ppm", "P6", 255, COLOUR), COLOUR)


@pytest.mark.parametrize("maximum", [4095, 65535])
def test_deep_pgm_keeps_the_levels_of_the_camera(tmp_path: Path, maximum: int) -> None:
    check(netpbm(tmp_path / "a.pgm", "P5", maximum, DEEP), DEEP)
    text = f"P2\n9 6\n{maximum}\n" + "\n".join(" ".join(map(str, row)) for row in DEEP)
    (tmp_path / "plain.pgm").write_text(text)
    check(tmp_path / "plain.pgm", DEEP)


def test_a_bitmap_is_black_where_its_bits_are_set(tmp_path: Path) -> None:
    rows = np.array([[1, 0, 1, 1, 0, 0, 0, 1, 1]] * 6)
    (tmp_path / "a.pbm").write_text("P1\n9 6\n" + "\n".join(" ".join(map(str, row)) for row in rows))
    check(tmp_path / "a.pbm", np.where(rows == 1, 0, 255).astype(np.uint8))


def test_a_gif_is_read_as_its_palette_says(tmp_path: Path) -> None:
    grey = Image.fromarray((np.arange(54) * 4).astype(np.uint8).reshape(6, 9))
    grey.save(tmp_path / "grey.gif")
    check(tmp_path / "grey.gif", np.asarray(grey))
    colour = Image.fromarray(COLOUR).quantize(16)
    colour.save(tmp_path / "colour.gif")
    check(tmp_path / "colour.gif", np.asarray(colour.convert("RGB")))


def test_of_an_animated_gif_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((6, 9), level, np.uint8)) for level in (40, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    check(tmp_path / "a.gif", np.full((6, 9), 40, np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P5\n9 6\n255\n" + bytes(20), "truncated"),
        (b"P5\n9 6\n4095\n" + bytes(20), "truncated"),
        (b"P6\n9 6\n65535\n" + bytes(324), "16-bit colour"),
        (b"P5\n90000 90000\n255\n", "more than the limit"),
        (b"P5\n9 6\n70000\n" + bytes(108), "damaged"),
        (b"P5\n9\n", "damaged"),
        (b"GIF89a" + bytes(30), "damaged"),
        (b"P5 is a robot", "damaged"),
    ],
)
def test_damaged_and_lossy_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(ImageError, match=reason):
        decode(tmp_path / "a.pgm")
