"""Image files of all formats are decoded to exact values."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import convert, decode, decode_mask, probe
from oddlens.data.preprocessing import fit_to
from oddlens.errors import ImageError

Array = npt.NDArray[Any]

# 48 high, 100 wide, 4,800 different levels spread over all 16 bits: an 8-bit conversion or a swapped byte is visible.
LEVELS = (np.arange(4800, dtype=np.uint16) * 13 + 7).reshape(48, 100)
GREY = np.arange(48 * 100, dtype=np.uint16).reshape(48, 100).astype(np.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (48, 100, 3), dtype=np.uint8)


def save(path: Path, array: Array, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def check(path: Path, expected: Array) -> None:
    """The file, its content and Pillow's image of it decode to these pixels, and `probe` reports shape and type."""
    pixels = decode(path)
    expected = expected[..., None] if expected.ndim == 2 else expected
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype
    height, width, channels = pixels.shape
    assert probe(path) == ImageInfo(height, width, 1 if channels == 1 else 3, 8 if pixels.dtype == np.uint8 else 16)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert probe(path.read_bytes()) == probe(path)
    with Image.open(path) as image:
        for same in (decode(path.read_bytes()), convert(image), convert(image)):  # the second time already decoded
            np.testing.assert_array_equal(same, expected)
            assert same.dtype == expected.dtype
    for spec_channels in (1, 3):
        spec = InputSpec(
            height=5, width=9, channels=spec_channels, value_max=255 if pixels.dtype == np.uint8 else 65535
        )
        for source in (path, path.read_bytes()):
            np.testing.assert_array_equal(
                fit_to(decode(source, spec), spec, "image"), fit_to(pixels, spec, "image"), strict=True
            )


def refused(path: Path) -> str:
    """Both `probe` and `decode` refuse the file with the same one-line error; returns the reason."""
    with pytest.raises(ImageError) as probed:
        probe(path)
    with pytest.raises(ImageError) as raised:
        decode(path)
    assert str(probed.value) == str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.name == str(path)
    with pytest.raises(ImageError, match=re.escape(raised.value.reason)):
        decode(path.read_bytes())
    return raised.value.reason


def png(path: Path, depth: int, kind: int, rows: list[bytes], width: int, **chunks: bytes) -> Path:
    """A PNG of any bit depth and colour type; chunks named in upper case follow the pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    early = b"".join(
        chunk(name.encode(), data) for name, data in chunks.items() if not name.isupper() or name == "PLTE"
    )
    late = b"".join(chunk(b"eXIf", data) for name, data in chunks.items() if name == "LATE")
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + early + data + late + chunk(b"IEND", b""))
    return path


def tiff(path: Path, data: bytes, order: str = "<", **tags: Any) -> Path:
    """A TIFF of one strip (or, with planar=2, one per channel) written tag by tag; deflated if compression=8."""
    codes = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "orientation": 274}
    codes |= {"samples": 277, "planar": 284, "extra": 338, "format": 339, "tile_width": 322, "tile_height": 323}
    if tags.get("compression") == 8:
        data = zlib.compress(data)
    values = {codes[name]: value if isinstance(value, list) else [value] for name, value in tags.items()}
    strips = values.get(277, [1])[0] if tags.get("planar") == 2 else 1
    offsets = [8 + i * (len(data) // strips) for i in range(strips)]
    values |= {273: offsets, 278: values[257], 279: [len(data) // strips] * strips}
    body, entries = bytearray(data + b"\0" * (len(data) % 2)), b""
    for code, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, body = struct.pack(f"{order}I", 8 + len(body)), body + packed
        entries += struct.pack(f"{order}HHI", code, 4, len(numbers)) + packed
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    path.write_bytes(start + body + struct.pack(f"{order}H", len(values)) + entries + b"\0\0\0\0")
    return path


# Grey


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_eight_bit_colour_keeps_every_value(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    check(save(tmp_path / f"a{suffix}", COLOUR, **options), COLOUR)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_eight_bit_grey_keeps_every_value(tmp_path: Path, suffix: str) -> None:
    check(save(tmp_path / f"a{suffix}", GREY), GREY)


def test_jpeg_keeps_flat_colours_within_its_rounding(tmp_path: Path) -> None:
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:, :16], flat[:, 16:] = (200, 30, 60), (20, 180, 90)
    pixels = decode(save(tmp_path / "a.jpg", flat, quality=100, subsampling=0))
    assert np.abs(pixels.astype(int) - flat).max() <= 2
    grey = decode(save(tmp_path / "b.jpeg", flat[..., 0], quality=100))
    assert grey.shape == (16, 32, 1)
    assert np.abs(grey[..., 0].astype(int) - flat[..., 0]).max() <= 1


def test_16_bit_png_keeps_all_levels(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", LEVELS), LEVELS)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_keeps_all_levels_in_both_byte_orders(tmp_path: Path, order: str, compression: int) -> None:
    data = LEVELS.astype(f"{order}u2").tobytes()
    tags: dict[str, Any] = {"width": 100, "height": 48, "bits": 16, "compression": compression, "photometric": 1}
    check(tiff(tmp_path / "a.tif", data, order, **tags), LEVELS)


def test_little_endian_big_tiff_is_read_and_big_endian_refused(tmp_path: Path) -> None:
    check(save(tmp_path / "a.tif", LEVELS, big_tiff=True), LEVELS)
    image = Image.frombytes("I;16B", (100, 48), LEVELS.astype(">u2").tobytes())
    image.save(tmp_path / "b.tif", big_tiff=True)
    assert "convert it to PNG" in refused(tmp_path / "b.tif")


def test_12_bit_data_in_a_16_bit_file_is_not_rescaled(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", LEVELS % 4096), LEVELS % 4096)


def test_packed_12_bit_tiff_keeps_all_levels(tmp_path: Path) -> None:
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    first, second = levels[:, ::2], levels[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    check(tiff(tmp_path / "a.tif", packed, width=64, height=64, bits=12, photometric=1), levels)


@pytest.mark.parametrize("compression", [1, 8])
def test_tiff_with_white_as_zero_is_inverted_at_both_depths(tmp_path: Path, compression: int) -> None:
    tags: dict[str, Any] = {"width": 100, "height": 48, "compression": compression, "photometric": 0}
    check(tiff(tmp_path / "16.tif", LEVELS.astype("<u2").tobytes(), bits=16, **tags), 65535 - LEVELS)
    check(tiff(tmp_path / "8.tif", GREY.tobytes(), bits=8, **tags), 255 - GREY)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_one_bit_images_become_black_and_white(tmp_path: Path, suffix: str) -> None:
    bits = np.random.default_rng(1).random((9, 21)) > 0.5
    check(save(tmp_path / f"a{suffix}", bits), bits.astype(np.uint8) * np.uint8(255))


def test_two_and_four_bit_grey_spans_the_whole_range(tmp_path: Path) -> None:
    check(png(tmp_path / "4.png", 4, 0, [b"\x01\x2f"], width=4), np.array([[0, 17, 34, 255]], np.uint8))
    check(png(tmp_path / "2.png", 2, 0, [b"\x1b"], width=4), np.array([[0, 85, 170, 255]], np.uint8))


# Colour


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_a_palette_gives_its_colours_and_a_grey_one_gives_grey(tmp_path: Path, suffix: str) -> None:
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    for name, colours in {"colour": palette, "grey": palette[:, :1].repeat(3, axis=1)}.items():
        image.putpalette(colours.tobytes())
        image.save(tmp_path / f"{name}{suffix}")
    check(tmp_path / f"colour{suffix}", palette[GREY])
    check(tmp_path / f"grey{suffix}", palette[GREY][..., 0])


def test_cmyk_jpeg_is_not_decoded_as_a_negative(tmp_path: Path) -> None:
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, 16:32], inks[:, 32:] = (0, 255, 255, 0), (0, 0, 0, 200)
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    pixels = decode(tmp_path / "a.jpg")
    for column, colour in ((8, (255, 255, 255)), (24, (255, 0, 0)), (40, (55, 55, 55))):
        assert np.abs(pixels[8, column].astype(int) - colour).max() <= 3
    assert probe(tmp_path / "a.jpg") == ImageInfo(16, 48, 3, 8)


def test_cmyk_jpeg_without_the_adobe_marker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    data = path.read_bytes()
    mark = data.index(b"\xff\xee")
    path.write_bytes(data[:mark] + data[mark + 2 + struct.unpack(">H", data[mark + 2 : mark + 4])[0] :])
    assert "inks" in refused(path)


def test_cmyk_and_ycbcr_tiff_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 5), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    check(tmp_path / "cmyk.tif", np.full((5, 4, 3), (255, 0, 0), np.uint8))
    Image.new("YCbCr", (4, 5), (76, 85, 255)).save(tmp_path / "ycbcr.tif")
    assert np.abs(decode(tmp_path / "ycbcr.tif").astype(int) - (255, 0, 0)).max() <= 2


def test_colour_profiles_are_ignored(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", COLOUR, icc_profile=b"not even a profile"), COLOUR)


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp"])
def test_two_megabytes_beside_the_pixels_are_ignored(tmp_path: Path, suffix: str) -> None:
    content = np.random.default_rng(3).integers(1, 256, 2_000_000, dtype=np.uint8).tobytes()
    options: dict[str, Any] = {"quality": 100, "lossless": True}  # as far as the format has them
    expected = decode(save(tmp_path / f"a{suffix}", COLOUR, **options))
    check(save(tmp_path / f"b{suffix}", COLOUR, icc_profile=content, **options), expected)
    if suffix == ".webp":
        check(save(tmp_path / f"c{suffix}", COLOUR, xmp=content, **options), expected)
    if suffix == ".tif":
        check(save(tmp_path / f"c{suffix}", COLOUR, tiffinfo={270: "x" * len(content), 700: content}), expected)


# Transparency


def test_transparent_pixels_are_white_and_never_their_hidden_colour(tmp_path: Path) -> None:
    layers = np.array([[(10, 20, 30, 0), (10, 20, 30, 255), (10, 20, 30, 51), (255, 255, 255, 0)]], np.uint8)
    # 51 of 255 is a fifth: 10/5 + 255*4/5 = 206, 20/5 + 204 = 208, 30/5 + 204 = 210
    expected = np.array([[(255, 255, 255), (10, 20, 30), (206, 208, 210), (255, 255, 255)]], np.uint8)
    check(save(tmp_path / "a.png", layers), expected)
    check(save(tmp_path / "a.tif", layers), expected)
    check(save(tmp_path / "a.webp", layers, lossless=True, exact=True), expected)


def test_transparent_grey_stays_grey(tmp_path: Path) -> None:
    layers = np.array([[(10, 0), (10, 255), (10, 51)]], np.uint8)
    Image.fromarray(layers, mode="LA").save(tmp_path / "a.png")
    check(tmp_path / "a.png", np.array([[255, 10, 206]], np.uint8))


def test_premultiplied_grey_is_divided_by_its_alpha_first(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"bits": [8, 8], "samples": 2, "extra": 1, "photometric": 1}
    path = tiff(tmp_path / "a.tif", bytes([50, 100, 0, 0]), width=2, height=1, **tags)
    check(path, np.array([[205, 255]], np.uint8))  # grey level 50/100 with opacity 100/255, over white


@pytest.mark.parametrize("grey", [False, True])
def test_palette_transparency_is_composited_over_white(tmp_path: Path, grey: bool) -> None:
    colours = [(9, 9, 9), (100, 100, 100), (3, 3, 3)] if grey else [(9, 8, 7), (100, 50, 0), (1, 2, 3)]
    palette = bytes(value for colour in colours for value in colour)
    path = png(tmp_path / "a.png", 8, 3, [b"\0\1\2"], width=3, PLTE=palette, tRNS=b"\x00\x33")
    expected = np.array([[(255,) * 3, [(v + 4 * 255 + 2) // 5 for v in colours[1]], colours[2]]], np.uint8)
    check(path, expected[..., 0] if grey else expected)


def test_a_colour_key_is_transparent(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 8, 2, [bytes(range(6))], width=2, tRNS=b"\0\0\0\1\0\2")
    check(path, np.array([[(255, 255, 255), (3, 4, 5)]], np.uint8))
    check(png(tmp_path / "b.png", 8, 0, [b"\7\x08"], width=2, tRNS=b"\0\7"), np.array([[255, 8]], np.uint8))
    check(png(tmp_path / "c.png", 1, 0, [b"\x40"], width=2, tRNS=b"\0\0"), np.array([[255, 255]], np.uint8))


def test_transparency_that_pillow_decodes_incorrectly_is_refused(tmp_path: Path) -> None:
    assert "2 or 4 bits" in refused(png(tmp_path / "a.png", 4, 0, [b"\x01\x2f"], width=4, tRNS=b"\0\2"))
    assert "16 bits" in refused(png(tmp_path / "b.png", 16, 0, [b"\0\1\0\2"], width=2, tRNS=b"\0\1"))


def test_a_fully_transparent_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(ImageError, match="fully transparent"):
        decode(path)


# Orientation


SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright: Array, orientation: int) -> Array:
    """The pixels as a camera stores them: EXIF names the sides of the image at which row 0 and column 0 are."""
    rows, columns = SIDES[orientation]
    image = upright if rows in ("top", "bottom") else upright.swapaxes(0, 1)
    return image[:: -1 if rows in ("bottom", "right") else 1, :: -1 if columns in ("bottom", "right") else 1]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_by_their_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = COLOUR[:4, :6].repeat(16, axis=0).repeat(16, axis=1)
    if suffix == ".jpg":
        upright = upright[..., 0]
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix == ".jpg" else {}
    path = save(tmp_path / f"a{suffix}", np.ascontiguousarray(stored(upright, orientation)), exif=exif, **options)
    if suffix == ".jpg":
        assert probe(path) == ImageInfo(64, 96, 1, 8)
        assert np.abs(decode(path)[..., 0].astype(int) - upright).max() <= 2
    else:
        check(path, upright)


def test_16_bit_tiff_is_rotated_by_its_orientation(tmp_path: Path) -> None:
    data = np.ascontiguousarray(stored(LEVELS, 6)).astype("<u2").tobytes()
    check(tiff(tmp_path / "a.tif", data, width=48, height=100, bits=16, photometric=1, orientation=6), LEVELS)


def test_unreadable_exif_orientation_counts_as_upright(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", COLOUR, exif=b"Exif\0\0no such header"), COLOUR)
    exif = Image.Exif()
    for orientation in (0, 9):
        exif[274] = orientation
        check(save(tmp_path / "b.png", COLOUR, exif=exif), COLOUR)


def test_an_orientation_after_the_pixels_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    late = png(tmp_path / "a.png", 8, 0, [b"\1\2", b"\3\4"], width=2, LATE=exif.tobytes()[6:])
    with pytest.raises(ImageError, match="orientation after the pixel data"):
        decode(late)
    exif[274] = 1
    harmless = png(tmp_path / "b.png", 8, 0, [b"\1\2", b"\3\4"], width=2, LATE=exif.tobytes()[6:])
    check(harmless, np.array([[1, 2], [3, 4]], np.uint8))


# Files that cannot be decoded without loss are refused


def test_16_bit_colour_is_refused_because_only_8_bits_can_be_read(tmp_path: Path) -> None:
    wide = np.stack([LEVELS, LEVELS, LEVELS], axis=-1)
    rows = [row.astype(">u2").tobytes() for row in wide]
    assert "16-bit grey" in refused(png(tmp_path / "a.png", 16, 2, rows, width=100))
    assert "16-bit grey" in refused(png(tmp_path / "b.png", 16, 4, [b"\0\1\0\2"], width=1))
    tags: dict[str, Any] = {"width": 100, "height": 48, "bits": [16] * 3, "samples": 3, "photometric": 2}
    assert "16-bit grey" in refused(tiff(tmp_path / "c.tif", wide.astype("<u2").tobytes(), **tags))
    planes = np.moveaxis(wide, -1, 0).astype("<u2").tobytes()
    assert "16-bit grey" in refused(tiff(tmp_path / "d.tif", planes, planar=2, **tags))


@pytest.mark.parametrize(("mode", "word"), [("F", "floating"), ("I", "32-bit"), ("LAB", "LAB")])
def test_other_kinds_of_pixels_are_refused_by_name(tmp_path: Path, mode: str, word: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif")
    assert word in refused(tmp_path / "a.tif")


def test_tiff_samples_that_would_be_misread_are_refused(tmp_path: Path) -> None:
    size: dict[str, Any] = {"width": 8, "height": 8}
    signed = tiff(tmp_path / "a.tif", bytes(64), bits=8, photometric=1, format=2, **size)
    assert "signed" in refused(signed)
    four = tiff(tmp_path / "b.tif", bytes(256), bits=[8] * 4, samples=4, extra=0, photometric=2, **size)
    assert "extra channel" in refused(four)
    reduced = tiff(tmp_path / "c.tif", bytes(192), bits=[8] * 3, samples=3, photometric=6, **size)
    assert "YCbCr" in refused(reduced)


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_several_pages_or_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(255 - COLOUR)]
    assert "several" in refused(save(tmp_path / f"a{suffix}", COLOUR, save_all=True, append_images=pages))


def test_the_main_image_of_a_multi_image_jpeg_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("L", (32, 24), 200).save(path, "MPO", save_all=True, append_images=[Image.new("L", (32, 24), 20)])
    check(path, np.full((24, 32), 200, np.uint8))


# Masks


def test_transparent_pixels_of_a_mask_are_black(tmp_path: Path) -> None:
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[:2] = (255, 0, 0, 255)
    layers[2] = (255, 255, 255, 0)
    pixels, is_exact = decode_mask(save(tmp_path / "a.png", layers))
    np.testing.assert_array_equal(pixels, np.where(layers[..., 3:] == 255, layers[..., :3], 0))
    assert is_exact
    assert not decode_mask(save(tmp_path / "b.png", layers[2:]))[0].any()  # as an image, it would be refused


def test_a_mask_drawn_in_black_on_a_transparent_ground_is_white(tmp_path: Path) -> None:
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[:2, :, 3] = 255
    pixels, _ = decode_mask(save(tmp_path / "a.png", layers))
    assert pixels[..., 0].tolist() == [[255] * 4] * 2 + [[0] * 4] * 2
    layers[..., 3] = 255
    assert not decode_mask(save(tmp_path / "b.png", layers))[0].any()


@pytest.mark.parametrize("palette", [[0, 0, 0], [9, 9, 9, 9, 9, 9, 200, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_a_palette_that_hides_levels_of_a_mask_is_ignored(tmp_path: Path, palette: list[int]) -> None:
    image = Image.frombytes("P", (4, 1), bytes([0, 1, 1, 0]))
    image.putpalette(palette)
    image.save(tmp_path / "a.png")
    assert decode_mask(tmp_path / "a.png")[0].tolist() == [[[0], [1], [1], [0]]]


def test_only_jpeg_has_inexact_levels(tmp_path: Path) -> None:
    exact = {suffix: decode_mask(save(tmp_path / f"a.{suffix}", GREY))[1] for suffix in ("png", "bmp", "tif", "jpg")}
    assert exact == {"png": True, "bmp": True, "tif": True, "jpg": False}
