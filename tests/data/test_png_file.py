"""PNG files with much text, large profiles and unusual chunks are read; where text holds an orientation, it counts."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from oddlens.data.image_io import decode, probe
from oddlens.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
NOISE = np.random.default_rng(1).integers(1, 256, 2_000_000, dtype=np.uint8).tobytes()  # hardly compressible
XMP = b'<rdf:Description tiff:Orientation="%d"/>'


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, *chunks: bytes, late: bool = False) -> Path:
    """Write the pixels with more chunks, before them or after them."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    content, where = buffer.getvalue(), -12 if late else 33
    path.write_bytes(content[:where] + b"".join(chunks) + content[where:])
    return path


def exif_text(orientation: int, comment: str = "") -> bytes:
    """EXIF data as ImageMagick writes them into text."""
    exif = Image.Exif()
    exif[274] = orientation
    exif[270] = comment
    data = exif.tobytes()
    return b"\nexif\n%8d\n" % len(data) + data.hex().encode() + b"\n"


LARGE = {
    "text": chunk(b"tEXt", b"Comment\0" + NOISE),
    "very large text": chunk(b"tEXt", b"Comment\0" + 35 * NOISE),
    "compressed text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(NOISE)),
    "text in Unicode": chunk(b"iTXt", b"Comment\0\0\0\0\0" + b"x" * 2_000_000),
    "compressed text in Unicode": chunk(b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + zlib.compress(NOISE)),
    "profile": chunk(b"iCCP", b"camera\0\0" + zlib.compress(NOISE)),
    "EXIF data": chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x0e\1\2\0" + struct.pack("<3I", len(NOISE), 26, 0) + NOISE),
    "many texts": b"".join(chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(900_000))) for i in range(80)),
    "upright XMP data": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % 1 + NOISE)),
    "private chunk": chunk(b"prVt", NOISE),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_large_text_and_profiles_are_passed_over(tmp_path: Path, name: str, late: bool) -> None:
    path = png(tmp_path / "a.png", LARGE[name], late=late)
    np.testing.assert_array_equal(decode(path), PIXELS)
    assert (probe(path).height, probe(path).width) == (20, 30)


def test_an_orientation_counts_wherever_it_is_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for name, data in {
        "eXIf": exif.tobytes()[6:],
        "tEXt": b"Raw profile type exif\0" + exif_text(6),
        "zTXt": b"Raw profile type exif\0\0" + zlib.compress(exif_text(6)),
        "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6,
    }.items():
        path = png(tmp_path / "a.png", LARGE["text"], chunk(name.encode(), data), LARGE["profile"])
        np.testing.assert_array_equal(decode(path), np.rot90(PIXELS, -1))
        assert (probe(path).height, probe(path).width) == (30, 20)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 6 + NOISE),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(NOISE + XMP % 6)),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(exif_text(6, "x" * 2_000_000))),
    ],
)
def test_an_orientation_in_large_text_counts(tmp_path: Path, name: bytes, data: bytes) -> None:
    np.testing.assert_array_equal(decode(png(tmp_path / "a.png", chunk(name, data))), np.rot90(PIXELS, -1))
    with pytest.raises(ImageError, match="orientation after the pixel data"):
        decode(png(tmp_path / "b.png", chunk(name, data), late=True))


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"tEXt", b""),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        chunk(b"tEXt", b"Raw profile type exif\0no digits"),
        chunk(b"iCCP", b"no profile"),
        chunk(b"zTXt", b"Comment\0\7unknown method"),
    ],
)
def test_damaged_text_is_no_reason_to_refuse_an_image(tmp_path: Path, text: bytes) -> None:
    np.testing.assert_array_equal(decode(png(tmp_path / "a.png", text)), PIXELS)
    np.testing.assert_array_equal(decode(png(tmp_path / "b.png", text, late=True)), PIXELS)


@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_ends_within_text_is_damaged(tmp_path: Path, late: bool) -> None:
    path = png(tmp_path / "a.png", LARGE["text"], late=late)
    path.write_bytes(path.read_bytes()[:1_900_000])
    with pytest.raises(ImageError, match="is damaged"):
        decode(path)


def test_text_whose_checksum_is_wrong_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is damaged .*checksum"):
        decode(png(tmp_path / "a.png", chunk(b"tEXt", b"Comment\0x")[:-1] + b"?"))


def test_the_limits_of_pillow_are_left_alone(tmp_path: Path) -> None:
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.SAFEBLOCK
    path = png(tmp_path / "a.png", LARGE["compressed text"])
    decode(path)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.SAFEBLOCK)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"), Image.open(path) as image:
        image.load()


def one_frame_animation() -> bytes:
    frame = struct.pack(">IIIIIHHBB", 0, 30, 20, 0, 0, 1, 10, 0, 0)
    return chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", frame)


@pytest.mark.parametrize(
    "chunks",
    [
        one_frame_animation(),
        one_frame_animation() + LARGE["compressed text"],
        chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sBIT", b"\5\6\5") + chunk(b"cICP", b"\1\x0d\0\1"),
        chunk(b"sPLT", b"palette\0\x08" + bytes(6 * 1000)) + chunk(b"tIME", b"\7\xe8\1\1\1\1\1"),
    ],
)
def test_unusual_chunks_do_not_change_the_pixels(tmp_path: Path, chunks: bytes) -> None:
    np.testing.assert_array_equal(decode(png(tmp_path / "a.png", chunks)), PIXELS)


def test_pixels_in_many_small_chunks_and_bytes_after_the_end_are_read(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png")
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    data = content[start : start + struct.unpack(">I", content[start - 8 : start - 4])[0]]
    parts = b"".join(chunk(b"IDAT", data[i : i + 7]) for i in range(0, len(data), 7))
    path.write_bytes(content[: start - 8] + parts + chunk(b"IDAT", b"") + content[-12:] + NOISE)
    np.testing.assert_array_equal(decode(path), PIXELS)


def test_interlaced_pixels_are_read(tmp_path: Path) -> None:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [row for x, y, dx, dy in passes for row in PIXELS[y::dy, x::dx]]
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 1))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + LARGE["profile"] + data + chunk(b"IEND", b""))
    np.testing.assert_array_equal(decode(path), PIXELS)
