"""Pillow's images, opened or made in memory, become the pixels of their files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from oddlens.data.image_io import convert, decode
from oddlens.errors import ImageError

COLOUR = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def content(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def with_orientation(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return content(Image.fromarray(COLOUR), kind, exif=exif.tobytes())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_undone_once(orientation: int, kind: str) -> None:
    file = with_orientation(orientation, kind)
    expected = decode(file)
    for image in (opened(file), opened(file).copy(), ImageOps.exif_transpose(opened(file))):
        np.testing.assert_array_equal(convert(image), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_images_made_in_memory_are_converted_like_files(mode: str) -> None:
    levels = np.arange(240, dtype=np.uint16).reshape(12, 20) * 200
    image = Image.fromarray(levels) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    pixels = convert(image)
    assert pixels.shape == (12, 20, 1 if mode in ("1", "L", "LA", "I;16") else 3)
    if mode == "I;16":
        np.testing.assert_array_equal(pixels[..., 0], levels)
    elif mode not in ("1", "CMYK", "YCbCr", "LA", "PA"):
        np.testing.assert_array_equal(pixels, decode(content(image, "PNG")))


def test_transparent_pixels_are_white() -> None:
    image = Image.fromarray(np.dstack([COLOUR, np.zeros((12, 20, 1), np.uint8)]))
    image.putpixel((0, 0), (1, 2, 3, 255))
    pixels = convert(image)
    assert pixels[0, 0].tolist() == [1, 2, 3]
    assert (pixels[1:] == 255).all()


def test_the_main_image_of_a_multi_image_jpeg_counts() -> None:
    image = Image.fromarray(COLOUR)
    file = content(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    assert opened(file).format == "MPO"
    np.testing.assert_array_equal(convert(opened(file)), decode(file))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (8, 8)), "floating-point values"),
        (Image.new("I", (8, 8)), "32-bit"),
        (Image.new("HSV", (8, 8)), "convert it to RGB or grey"),
        (Image.new("LAB", (8, 8)), "convert it to RGB or grey"),
        (Image.new("RGBA", (8, 8)), "fully transparent"),
        (Image.new("RGB", (0, 8)), "has no pixels"),
    ],
)
def test_what_is_refused_in_a_file_is_refused_in_memory(image: Image.Image, reason: str) -> None:
    with pytest.raises(ImageError, match=f"mine: .*{reason}"):
        convert(image, "mine")


def test_an_animation_is_refused_and_a_copy_of_one_frame_is_not() -> None:
    image = Image.fromarray(COLOUR)
    file = content(image, "TIFF", save_all=True, append_images=[image.rotate(180)])
    with pytest.raises(ImageError, match="several pages or frames"):
        convert(opened(file))
    second = opened(file)
    second.seek(1)
    np.testing.assert_array_equal(convert(second.copy()), COLOUR[::-1, ::-1])


def test_an_image_whose_file_was_closed_is_refused_in_one_line() -> None:
    file = content(Image.fromarray(COLOUR), "PNG")
    with opened(file) as image:
        pass
    with pytest.raises(ImageError, match=r"cannot be read \(.*\); open it again, and call its load\(\)"):
        convert(image)
    with pytest.raises(ImageError, match="image file is truncated"):
        convert(opened(file[:-60]))
