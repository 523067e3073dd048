"""Read image files, arrays and Pillow's images: the only module that makes pixels of them.

Images are decoded as a viewer shows them: EXIF orientation is applied, transparent pixels are composited over white,
palettes are looked up, CMYK and YCbCr are converted to RGB; ICC profiles and gamma are ignored. Of a GIF, the first
frame is decoded. Other files that cannot be decoded without losing levels, pages or channels are rejected, so a
detector gets everything that the camera recorded.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt
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

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Index = npt.NDArray[np.intp]  # which of several images

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm"}
)
FORMATS = "PNG, JPEG, TIFF, BMP, WebP, GIF or PGM/PPM"
HEAD_BYTES = 64  # of a file, by which `is_image` recognizes it
DECODERS = min(4, os.cpu_count() or 1)  # threads, of which Pillow decodes in several at once
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
    rb"|P[1-6]\s(?:\s|#[^\n]*\n)*\d+\s+\d+\s",
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


def probe(source: Path | bytes) -> ImageInfo:
    """Read the header of an image file, or of its content, without decoding any pixel.

    Raises:
        ImageError: the file cannot be read, is not a supported image, or is of a kind that `decode` rejects.
    """
    with _open_image(source) as image:
        return _info(image)


def decode(source: Path | bytes) -> Pixels:
    """Decode an image file, or its content, to (H, W, C), uint8 or uint16, with the shape and type that `probe` gives.

    1-bit images and palettes that contain only greys become grey. Of a multi-picture JPEG (MPO) the main image is
    decoded. Transparent pixels are composited over white.

    Raises:
        ImageError: as for `probe`, the pixels are damaged or truncated, or all are transparent.
    """
    with _open_image(source) as image:
        return _pixels(image, _over_white, _name(source))


def decode_mask(path: Path) -> tuple[Pixels, bool]:
    """Decode a mask to (H, W, C), and tell whether its levels are exact, which those of JPEG are not.

    Transparent pixels are black, as what is not marked. A drawing in black on a transparent ground becomes white. A
    palette that shows several levels in one colour is ignored.

    Raises:
        ImageError: as for `probe`, or the pixels are damaged or truncated.
    """
    with _open_image(path) as image:
        return _pixels(image, _over_black, str(path)), not isinstance(image, JpegImageFile)


def convert(image: Image.Image, name: str = "image") -> Pixels:
    """Convert an image that Pillow opened or made to (H, W, C), as `decode` converts its file.

    Raises:
        ImageError: its pixels cannot be read, or it is of a kind that `decode` rejects.
    """
    with _image_errors(name, "cannot be read", "open it again, and call its load() before its file is closed"):
        problem = _problem(image) if all(image.size) else "has no pixels; pass another image"
        if problem:
            raise ImageError(name, problem)
        return _pixels(image, _over_white, name)


def _pixels(image: Image.Image, flatten: Callable[[Image.Image, str], Image.Image], name: str) -> Pixels:
    """Decode an open image, whose header was checked; `flatten` removes its transparency."""
    info, orientation = _info(image), _orientation(image)
    if isinstance(image, PpmImageFile) and info.bits == 16:
        return _load_deep_pgm(image)
    _load_unmapped(image)
    if flatten is _over_black and image.mode == "P" and _hides_levels(image):
        pixels: Pixels = np.array(image)[..., None]
    else:
        pixels = _load(image, info, flatten, name)
    if not isinstance(image, TiffImageFile):  # Pillow rotates TIFF itself
        if _orientation(image) != orientation:
            raise ImageError(name, "stores its EXIF orientation after the pixel data; save it again")
        pixels = _undo_orientation(pixels, orientation)
    return pixels if pixels.flags.c_contiguous else pixels.copy()


def _load_unmapped(image: Image.Image) -> None:
    """Load the pixels. Pillow maps a file that it opened by its name into memory, which garbles a rotated TIFF."""
    if not isinstance(image, TiffImageFile):
        image.load()
        return
    filename, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = filename


def _name(source: Path | bytes) -> str:
    return "image" if isinstance(source, bytes) else str(source)


@contextmanager
def _open_image(source: Path | bytes) -> Iterator[ImageFile]:
    """Open one image; every error here or in the with-block is raised as an ImageError."""
    name = _name(source)
    with (
        _image_errors(name, "is damaged or has an unsupported format", "copy it again or save it as PNG"),
        _open_stream(source) as file,
        _detect_reader(file, name)(file) as image,
    ):
        problem = _problem(image)
        if problem:
            raise ImageError(name, problem)
        yield image


def _open_stream(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    mode = source.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(str(source), "is a folder, not an image file; pass the files in it")
    if not stat.S_ISREG(mode):  # opening a pipe would block forever
        raise ImageError(str(source), "is a pipe, socket or device, not an image file; save the image to a file first")
    return source.open("rb")


@contextmanager
def _image_errors(name: str, problem: str, fix: str) -> Iterator[None]:
    """Raise every error in the with-block as an ImageError; `problem` and `fix` are for those of damaged images."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(name, "does not exist; check the path") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, _too_large("more pixels")) from error
    except Exception as error:  # on damaged bytes the readers raise many kinds of errors
        if isinstance(error, OSError) and error.errno:
            raise ImageError(name, f"cannot be read ({error.strerror}); check its permissions and the disk") from error
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, f"{problem} ({cause}); {fix}") from error


def _detect_reader(file: BinaryIO, name: str) -> type[ImageFile]:
    start = file.read(16)
    file.seek(0)
    for signatures, reader in _READERS:
        if start.startswith(signatures):
            return reader
    if not start:
        raise ImageError(name, "is empty; copy it again")
    raise ImageError(name, f"is not a {FORMATS} image (it starts with {start!r}); convert it to PNG")


def _too_large(size: str) -> str:
    return f"has {size} than the limit of {MAX_PIXELS:,}; reduce or crop it"


def _problem(image: Image.Image) -> str | None:
    """The reason why an image is rejected by its header, or None."""
    width, height = image.size
    is_16_bit = _is_16_bit(image)
    if width * height > MAX_PIXELS:
        return _too_large(f"{width} x {height} pixels, more")
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
        return _too_large("tiles of more pixels")
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


def _pgm_maximum(image: PpmImageFile) -> int:
    """The largest level that a PGM or PPM file may contain, from its header; 255 of one that is decoded already."""
    args = image.tile[0].args if image.tile else ""
    return int(args[1]) if isinstance(args, tuple) else 65535 if args == "I;16B" else 255


def _file_bits(image: Image.Image) -> int:
    """Bits per channel as stored, which Pillow's mode may hide."""
    if isinstance(image, PpmImageFile):
        return 16 if _pgm_maximum(image) > 255 else 8
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))
    return 16 if ";16" in _png_mode(image) else 8


def _png_mode(image: Image.Image) -> str:
    """How the pixels of a PNG file are stored; "" of other images, and of those that are decoded already."""
    return str(image.tile[0].args) if isinstance(image, PngImageFile) and image.tile else ""


def _info(image: Image.Image) -> ImageInfo:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # `size` already accounts for one of the two places that store an orientation
        width, height = image.tag_v2[256], image.tag_v2[257]
    if _orientation(image) >= 5:
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


def _hides_levels(image: Image.Image) -> bool:
    """Whether the palette of an image shows several of its levels in one colour."""
    palette = image.getpalette("RGB") or []
    levels = np.unique(np.array(image)).tolist()
    colours = {tuple(palette[3 * level : 3 * level + 3]) or (0, 0, 0) for level in levels}
    return len(colours) < len(levels)


def _orientation(image: Image.Image) -> int:
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


def _load(image: Image.Image, info: ImageInfo, flatten: Callable[[Image.Image, str], Image.Image], name: str) -> Pixels:
    if info.bits == 16:
        levels = np.array(image, dtype=np.uint16)[..., None]
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        return 65535 - levels if white_is_zero else levels  # Pillow inverts such files at 8 bits only
    plain = image
    if image.has_transparency_data:
        plain = flatten((image.convert("LA") if image.mode == "La" else image).convert("RGBA"), name)  # La: only to LA
    mode = "L" if info.channels == 1 else "RGB"
    plain = plain if plain.mode == mode else plain.convert(mode)
    return np.array(plain).reshape(*plain.size[::-1], info.channels)


def _load_deep_pgm(image: PpmImageFile) -> Pixels:
    """The levels of a 16-bit PGM file as the camera wrote them; Pillow stretches those of 12 bits, and slowly."""
    codec, offset, maximum = image.tile[0].codec_name, image.tile[0].offset, _pgm_maximum(image)
    if codec == "ppm_plain":
        image.load()
        return np.rint(np.array(image) * (maximum / 65535)).astype(np.uint16)[..., None]
    file, (width, height) = cast(BinaryIO, image.fp), image.size
    file.seek(offset)
    content = file.read(2 * width * height)
    if len(content) < 2 * width * height:
        raise ValueError("image file is truncated")
    return np.frombuffer(content, ">u2").astype(np.uint16).reshape(height, width, 1)


def _over_white(layers: Image.Image, name: str) -> Image.Image:
    if not layers.getchannel("A").getbbox():
        raise ImageError(name, "is fully transparent; save it without transparency")
    return _composite(layers, 255)


def _over_black(layers: Image.Image, name: str) -> Image.Image:
    alpha, plain = layers.getchannel("A"), _composite(layers, 0)
    is_black_drawing = not plain.getbbox() and bool((np.asarray(alpha) < 255).any())
    return alpha if is_black_drawing else plain


def _composite(layers: Image.Image, background: int) -> Image.Image:
    plain = Image.new("RGB", layers.size, (background,) * 3)
    plain.paste(layers, mask=layers.getchannel("A"))
    return plain


def _undo_orientation(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 5 to 8 swap the axes, then some are mirrored along one or both axes."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def as_pixels(array: np.ndarray[Any, Any], name: str = "array") -> Pixels:
    """Validate an array of images and convert it to (N, H, W, C), uint8 or uint16; no scale is guessed from values.

    Accepts (N, H, W), (N, H, W, 1) or (N, H, W, 3). uint8 and uint16 are kept, bool becomes 0 and 255, floats in
    0..1 are multiplied by 65535 and rounded to uint16.

    Raises:
        ImageError: the shape, type or range is different; the message gives the expression that fixes it.
    """
    if not isinstance(array, np.ndarray):
        raise ImageError(name, f"is a {type(array).__name__}, not a NumPy array; convert it with np.asarray")
    problem = _shape_problem(array.shape)
    if problem:
        raise ImageError(name, f"has shape {array.shape}: {problem}")
    if np.ma.is_masked(array):
        raise ImageError(name, "has masked pixels, which would count as any others; fill them: array.filled(0)")
    array = np.asarray(array)  # without NumPy's subclasses
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return cast(Pixels, array.astype(array.dtype.newbyteorder("="), copy=False))
    if array.dtype.kind != "f":
        fix = "convert it with astype(np.uint8) if its range is 0..255, with astype(np.uint16) if 0..65535"
        raise ImageError(name, f"has type {array.dtype}; {fix}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # also rejects NaN
        fix = (
            "divide by the largest value that the camera can record, such as 4095, or use array.astype(np.uint8) where "
            "the values are 8-bit levels"
        )
        raise ImageError(name, f"contains floats in {low:g}..{high:g}, but they must be in 0..1; {fix}")
    levels = array.astype(np.float32)
    levels *= 65535
    return np.rint(levels).astype(np.uint16)


def _shape_problem(shape: tuple[int, ...]) -> str | None:
    if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)):
        return "this looks like a single image; add an axis for the images: array[None]"
    if len(shape) not in (3, 4):
        return "pass images as (N, H, W) or (N, H, W, C)"
    if 0 in shape:
        return "it has no pixels; pass at least one image"
    if len(shape) == 3 or shape[3] in (1, 3):
        return None
    if shape[1] in (1, 3):
        return "channels must be last: np.moveaxis(array, 1, -1)"
    return f"{shape[3]} channels are not supported, only 1 (grey) or 3 (RGB): array[..., :3] selects the first three"
