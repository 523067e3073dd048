"""What image files say about themselves: format, size, channels, bits, orientation, and why one is rejected.

Nothing here decodes a pixel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from oddlens.data.png_file import PngFile
from oddlens.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
)
FORMATS = "PNG, JPEG, TIFF, BMP, WebP, GIF or PGM/PPM"
HEAD_BYTES = 64  # of a file, by which `is_image` recognizes it
# Just below the 89.5 million pixels at which Pillow's process-wide guard starts to warn, so it never does.
MAX_PIXELS = 89_000_000

# The readers are called directly, not through Image.open, whose size guard is a global setting and only warns.
_READERS: tuple[tuple[tuple[bytes, ...], type[ImageFile]], ...] = (
    ((b"\x89PNG\r\n\x1a\n",), PngFile),
    ((b"\xff\xd8\xff",), JpegImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0"), TiffImageFile),  # Pillow cannot read a big-endian BigTIFF, MM\0+
    ((b"BM",), BmpImageFile),
    ((b"RIFF",), WebPImageFile),
    ((b"GIF87a", b"GIF89a"), GifImageFile),
    (tuple(b"P%d" % kind for kind in range(1, 7)), PpmImageFile),
)
# The signatures above suffice for files that are named like images; these rule out other files that begin like one.
_IMAGE_HEAD = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|II\*\0|MM\0\*|II\+\0|BM.{12}[\x0c\x28\x34\x38\x6c\x7c]\0\0\0|RIFF.{4}WEBP|GIF8[79]a"
    rb"|P1\s(?:\s|#[^\n]*\n)*\d+\s+\d+\s+[01][01\s]|P4\s(?:\s|#[^\n]*\n)*\d+\s+\d+\s"
    rb"|P[2356]\s(?:\s|#[^\n]*\n)*\d+\s+\d+\s+\d+\s",
    re.DOTALL,
)
_DEEP_MODES = ("I;16", "I;16B")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", *_DEEP_MODES)


@dataclass(frozen=True)
class ImageInfo:
    """Size (after EXIF rotation), channels and bits per channel of an image file."""

    height: int
    width: int
    channels: Literal[1, 3]
    bits: Literal[8, 16]


def is_image(head: bytes) -> bool:
    """Whether a file that begins with these `HEAD_BYTES` is an image that oddlens reads, whatever its name."""
    return _IMAGE_HEAD.match(head) is not None


def detect_reader(file: BinaryIO, name: str) -> type[ImageFile]:
    """The reader for a file, by its first bytes; `name` is what its errors call it.

    Raises:
        ImageError: there is none.
    """
    start = file.read(16)
    file.seek(0)
    for signatures, reader in _READERS:
        if start.startswith(signatures):
            return reader
    if not start:
        raise ImageError(name, "is empty; copy it again")
    raise ImageError(name, f"is not a {FORMATS} image (it starts with {start!r}); convert it to PNG")


def too_large(size: str) -> str:
    """Why an image of such a size is rejected."""
    return f"has {size} than the limit of {MAX_PIXELS:,}; reduce or crop it"


def header_problem(image: Image.Image) -> str | None:
    """The reason why an image is rejected by its header, or None."""
    width, height = image.size
    is_16_bit = _is_16_bit(image)
    if width * height > MAX_PIXELS:
        return too_large(f"{width} x {height} pixels, more")
    has_one = isinstance(image, GifImageFile | JpegImageFile)  # the first frame, or the main image
    if getattr(image, "is_animated", False) and not has_one:
        return "contains several pages or frames; save the one to inspect as a separate file"
    if image.mode in ("I", "F") and _file_bits(image) != 16:
        return "contains 32-bit, signed or floating-point values; rescale it from its known range to 8 or 16 bits"
    if image.mode not in _MODES and not is_16_bit:
        return f"is in the {image.mode} colour space; convert it to RGB or grey"
    if isinstance(image, TiffImageFile):
        problem = _tiff_problem(image.tag_v2, image.mode)
        if problem:
            return problem
    if _file_bits(image) > 8 and not is_16_bit:
        return (
            "has 16-bit colour or transparency, of which only 8 bits can be read; save it as 16-bit grey or at 8 bits"
        )
    if is_16_bit and image.has_transparency_data:
        return "has a transparent grey level at 16 bits; save it without transparency"
    if _png_mode(image) in ("L;2", "L;4") and image.has_transparency_data:
        return "has a transparent grey level at 2 or 4 bits; save it at 8 bits"
    if isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        return "is a CMYK JPEG without the Adobe marker that tells whether its inks are inverted; convert it to RGB"
    return None


def _tiff_problem(tags: Any, mode: str) -> str | None:
    if int(tags.get(322, 0)) * int(tags.get(323, 0)) > MAX_PIXELS:  # a tile is decoded whole, however small the image
        return too_large("tiles of more pixels")
    if any(kind != 1 for kind in tags.get(339, (1,))):
        return "contains signed or floating-point samples; rescale it from its known range to unsigned 8 or 16 bits"
    if 0 in tags.get(338, ()):
        return "contains an extra channel of unspecified meaning; save it as grey or RGB"
    if mode == "YCbCr" and tuple(tags.get(530, (2, 2))) != (1, 1):
        return "contains uncompressed YCbCr with chroma subsampling, which cannot be read; save it as RGB"
    return None


def _is_16_bit(image: Image.Image) -> bool:
    """Whether an image is grey with 16 bits, of which all levels can be read; a PGM only before it is decoded."""
    return image.mode in _DEEP_MODES or (image.mode == "I" and isinstance(image, PpmImageFile) and bool(image.tile))


def pgm_maximum(image: PpmImageFile) -> int:
    """The largest level that a PGM or PPM file may contain, from its header; 255 of one that is decoded already."""
    args = image.tile[0].args if image.tile else ""
    return int(args[1]) if isinstance(args, tuple) else 65535 if args == "I;16B" else 255


def _file_bits(image: Image.Image) -> int:
    """Bits per channel as stored, which Pillow's mode may hide."""
    if isinstance(image, PpmImageFile):
        return 16 if pgm_maximum(image) > 255 else 8
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))
    return 16 if ";16" in _png_mode(image) else 8


def _png_mode(image: Image.Image) -> str:
    """How the pixels of a PNG file are stored; "" of other images, and of those that are decoded already."""
    return str(image.tile[0].args) if isinstance(image, PngImageFile) and image.tile else ""


def image_info(image: Image.Image) -> ImageInfo:
    """Size, channels and bits of an image whose header was read."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # `size` already accounts for one of the two places that store an orientation
        width, height = image.tag_v2[256], image.tag_v2[257]
    if read_orientation(image) >= 5:
        width, height = height, width
    deep = _is_16_bit(image)
    grey = deep or image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _palette_is_grey(image))
    return ImageInfo(height, width, 1 if grey else 3, 16 if deep else 8)


def _palette_is_grey(image: Image.Image) -> bool:
    if image.palette is None:
        raise ValueError("no palette")
    order, data = image.palette.getdata()
    entries = np.frombuffer(data, np.uint8)
    colours = entries.reshape(3, -1).T if order == "RGB;L" else entries.reshape(-1, len(order))[:, :3]
    return bool((colours == colours[:, :1]).all())


def read_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8 (1 = upright); an unreadable one counts as 1, as in viewers."""
    if not image.info and not isinstance(image, TiffImageFile):
        return 1
    bare = Image.Image()  # getexif of the PNG itself would decode its pixels
    bare.info = image.info
    try:
        value: Any = image.tag_v2.get(274) if isinstance(image, TiffImageFile) else None
        value = value or bare.getexif().get(274)
    except Exception:
        return 1
    return int(value) if value in range(1, 9) else 1
