"""Damaged, mislabelled and malicious image files raise one clear ImageError, fast and with little memory.

The threat model is in README.md in this folder.
"""

from __future__ import annotations

import functools
import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from oddlens.data.image_header import MAX_PIXELS, ImageInfo
from oddlens.data.image_io import decode, probe
from oddlens.data.masks import read_mask
from oddlens.errors import ImageError

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
KINDS: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.jpg": {},
    "a.bmp": {},
    "a.webp": {},
    "raw.tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
}


def encoded(name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF"}[Path(name).suffix]
    Image.fromarray(COLOUR).save(buffer, kind, **KINDS[name], **options)
    return buffer.getvalue()


def refused(path: Path) -> str:
    """All readers refuse the file with the same one-line error; returns the reason."""
    reasons = set()
    for read in (decode, read_mask):
        with pytest.raises(ImageError) as raised:
            read(path)
        assert "\n" not in str(raised.value)
        assert raised.value.name == str(path)
        reasons.add(raised.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


# Not an image at all


@pytest.mark.parametrize(
    "content", [b"hello, I am a text", b"\0\0\0\x18ftypheic" + bytes(30), b"%PDF-1.7", b"\x00" * 64, b"\x89PNG"]
)
def test_errors_for_other_files_show_how_they_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    reason = refused(path)
    assert repr(content[:16]) in reason
    assert "convert it to PNG" in reason


@pytest.mark.parametrize("content", [b"BMW series 3 owner's manual", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(30)])
def test_files_that_only_start_like_an_image_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(content)
    assert "damaged or has an unsupported format" in refused(path)


def test_the_format_is_detected_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("a.png"))
    np.testing.assert_array_equal(decode(path), COLOUR)


def test_an_empty_file_is_reported_as_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert refused(tmp_path / "a.png") == "is empty; copy it again"


def test_folders_and_missing_files_have_their_own_errors(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "none.png")
    (tmp_path / "file").touch()
    assert "cannot be read (Not a directory)" in refused(tmp_path / "file" / "a.png")


def test_a_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "pipe" in refused(tmp_path / "a.png")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read all files")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("a.png"))
    path.chmod(0)
    assert "Permission denied" in refused(path)


def test_an_invalid_file_name_is_refused(tmp_path: Path) -> None:
    assert "File name too long" in refused(tmp_path / ("a" * 300 + ".png"))
    assert "null" in refused(tmp_path / "a\0.png")


# Damaged


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("filters", ["error", "ignore"])
def test_a_file_truncated_anywhere_is_refused(tmp_path: Path, name: str, filters: Literal["error", "ignore"]) -> None:
    """Pillow warns about some cuts before it fails; the outcome must not depend on the warning filter."""
    whole = encoded(name)
    path = tmp_path / name
    # A BMP row ends in padding and a PNG in an empty chunk: without those few bytes all pixels are still present.
    ends = [*range(1, 160, 3), *range(160, len(whole) - 20, 61)]
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        for end in ends:
            path.write_bytes(whole[:end])
            assert refused(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_probing_reads_no_pixel(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(encoded(name)[:700])
    assert probe(path) == ImageInfo(20, 30, 3, 8)
    assert "truncated" in refused(path)


def test_the_error_for_a_truncated_jpeg_names_cause_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("a.jpg")[:700])
    assert re.fullmatch(
        r"is damaged or has an unsupported format \(.*truncated.*\); copy it again or save it as PNG", refused(path)
    )


def test_damaged_png_data_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded("a.png"))
    data[len(data) // 2] ^= 0x10
    (tmp_path / "a.png").write_bytes(data)
    assert "damaged" in refused(tmp_path / "a.png")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=12),
    st.booleans(),
)
def test_flipped_bytes_give_pixels_or_an_image_error(
    tmp_path: Path, name: str, flips: list[tuple[int, int]], in_header: bool
) -> None:
    data = bytearray(encoded(name))
    for where, value in flips:
        data[where % (min(len(data), 120) if in_header else len(data))] = value
    path = tmp_path / name
    path.write_bytes(data)
    try:
        pixels = decode(path)
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right; another exception is not)
    else:
        info = probe(path)
        assert pixels.shape == (info.height, info.width, info.channels)


# Bombs: small on disk, huge in memory


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")


def jpeg_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded("a.jpg"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_bomb(width: int, height: int) -> bytes:
    data = bytearray(encoded("a.bmp"))
    data[18:26] = struct.pack("<II", width, height)
    return bytes(data)


def webp_bomb(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    data = bytearray(encoded("a.webp", lossless=True))
    data[21:25] = struct.pack("<I", bits | (struct.unpack("<I", data[21:25])[0] & 0xF0000000))
    return bytes(data)


def tiff_bomb(**tags: int) -> bytes:
    """A TIFF of one deflated strip or tile, 16 MiB of zeros."""
    data = zlib.compress(bytes(2**24))
    data += b"\0" * (len(data) % 2)
    codes = {"width": 256, "height": 257, "tile_width": 322, "tile_height": 323}
    values = {codes[name]: value for name, value in tags.items()}
    offsets, counts = (324, 325) if "tile_width" in tags else (273, 279)
    values |= {258: 8, 259: 8, 262: 1, 277: 1, 278: values[257], offsets: 8, counts: len(data)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(values.items()))
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(values)) + entries + bytes(4)


BOMBS = {
    "png": png_bomb(60_000, 60_000),
    "jpeg": jpeg_bomb(65_000, 65_000),
    "bmp": bmp_bomb(60_000, 60_000),
    "webp": webp_bomb(16_383, 16_383),
    "webp-below-pillows-limit": webp_bomb(12_000, 12_000),
    "tiff": tiff_bomb(width=60_000, height=60_000),
    "tiff-tile": tiff_bomb(width=64, height=64, tile_width=40_000, tile_height=40_000),
    "one-long-row": png_bomb(2**31 - 1, 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header_with_the_limit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    assert len(BOMBS[name]) < 100_000
    assert f"{MAX_PIXELS:,}; reduce or crop it" in refused(path)
    with pytest.raises(ImageError):
        probe(path)


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    assert peak_memory_of_decoding(tmp_path, refused=True) < 32 * 2**20


def peak_memory_of_decoding(folder: Path, refused: bool) -> int:
    """The bytes that decoding all files takes in a process of its own; all or none are refused."""
    script = (
        "import resource, sys; from pathlib import Path; from oddlens.data.image_io import decode, ImageError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, refused = peak(), []\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: decode(path)\n"
        "    except ImageError: refused.append(path.name)\n"
        "print(peak() - before, *refused)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    used, *names = run.stdout.split()
    assert names == (sorted(path.name for path in folder.iterdir()) if refused else [])
    return int(used) * (1 if sys.platform == "darwin" else 1024)


def test_the_limit_does_not_depend_on_pillows_global_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS["png"])
    (tmp_path / "fine").write_bytes(encoded("a.png"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "reduce or crop" in refused(tmp_path / "bomb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(decode(tmp_path / "fine"), COLOUR)


def test_an_image_just_within_the_limit_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bomb(10_000, MAX_PIXELS // 10_000))
    assert probe(tmp_path / "a.png").height == MAX_PIXELS // 10_000


TEXT_BOMBS = {"zTXt": b"note\0\0", "iTXt": b"note\0\1\0\0\0", "iCCP": b"profile\0\0"}  # before what inflates
ORIENTATION_BOMBS = {"zTXt": b"Raw profile type exif\0\0", "iTXt": b"XML:com.adobe.xmp\0\1\0\0\0"}


@functools.cache
def much() -> bytes:
    """What inflates to 256 MiB."""
    return zlib.compress(bytes(2**28))


@pytest.mark.parametrize("late", [False, True])
def test_text_that_inflates_is_not_inflated(tmp_path: Path, late: bool) -> None:
    whole, where = encoded("a.png"), -12 if late else 33
    for folder, bombs in (("read", TEXT_BOMBS), ("refused", ORIENTATION_BOMBS)):
        (tmp_path / folder).mkdir()
        for name, before in bombs.items():
            content = whole[:where] + chunk(name.encode(), before + much()) + whole[where:]
            (tmp_path / folder / name).write_bytes(content)
    assert peak_memory_of_decoding(tmp_path / "read", refused=False) < 4 * 2**20
    assert peak_memory_of_decoding(tmp_path / "refused", refused=True) < 32 * 2**20
    with pytest.raises(ImageError, match="EXIF or XMP data inflate to more than 8,388,608 bytes"):
        decode(tmp_path / "refused" / "iTXt")


def test_many_threads_get_the_same_answers_as_one(tmp_path: Path) -> None:
    paths = []
    for i in range(60):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes([encoded("a.png"), BOMBS["png"], encoded("lzw.tif"), b"text"][i % 4])

    def answer(path: Path) -> str:
        try:
            return str(np.array_equal(decode(path), COLOUR))
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, paths)) == [answer(path) for path in paths]
