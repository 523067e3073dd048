"""Read image files and arrays: the only module that decodes bytes to pixels.

Images are decoded as a viewer shows them: EXIF orientation is applied, transparent pixels are composited over white,
palettes are looked up, CMYK and YCbCr are converted to RGB; ICC profiles and gamma are ignored. Files that cannot be
decoded without losing levels, pages or channels are rejected, so a detector gets everything that the camera recorded.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from oddlens.data.png_file import PngFile
from oddlens.errors import ImageError

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Index = npt.NDArray[np.intp]  # which of several images

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
# Just below the 89.5 million pixels at which Pillow's process-wide guard starts to warn, so it never does.
MAX_PIXELS = 89_000_000

# The readers are called directly, not through Image.open, whose size guard is a global setting and only warns.
_READERS: tuple[tuple[tuple[bytes, ...], type[ImageFile]], ...] = (
    ((b"\x89PNG\r\n\x1a\n",), PngFile),
    ((b"\xff\xd8\xff",), JpegImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0"), TiffImageFile),  # Pillow cannot read a big-endian BigTIFF, MM\0+
    ((b"BM",), BmpImageFile),
    ((b"RIFF",), WebPImageFile),
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


def probe(path: Path) -> ImageInfo:
    """Read the header of an image file without decoding any pixel.

    Raises:
        ImageError: the file cannot be read, is not a supported image, or is of a kind that `decode` rejects.
    """
    with _open_image(path) as image:
        return _info(image)


def decode(path: Path, background: int = 255) -> Pixels:
    """Decode an image file to (H, W, C), uint8 or uint16, with the shape and type that `probe` reports.

    1-bit images and palettes that contain only greys become grey. Of a multi-picture JPEG (MPO) the main image is
    decoded. Transparent pixels are composited over the grey level `background` (0..255).

    Raises:
        ImageError: as for `probe`, or the pixels are damaged or truncated.
    """
    with _open_image(path) as image:
        info, orientation = _info(image), _orientation(image)
        image.load()
        pixels = _load(image, info, background, str(path))
        if not isinstance(image, TiffImageFile):  # Pillow rotates TIFF itself
            if _orientation(image) != orientation:
                raise ImageError(str(path), "stores its EXIF orientation after the pixel data; save it again")
            pixels = _undo_orientation(pixels, orientation)
    return pixels if pixels.flags.c_contiguous else pixels.copy()


@contextmanager
def _open_image(path: Path) -> Iterator[ImageFile]:
    """Open one image; every error here or in the with-block is raised as an ImageError."""
    name = str(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(name, "is a folder, not an image file; pass the files in it")
        if not stat.S_ISREG(mode):  # opening a pipe would block forever
            raise ImageError(name, "is a pipe, socket or device, not an image file; save the image to a file first")
        with path.open("rb") as file, _detect_reader(file, name)(file) as image:
            problem = _problem(image)
            if problem:
                raise ImageError(name, problem)
            yield image
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
        raise ImageError(
            name, f"is damaged or has an unsupported format ({cause}); copy it again or save it as PNG"
        ) from error


def _detect_reader(file: BinaryIO, name: str) -> type[ImageFile]:
    start = file.read(16)
    file.seek(0)
    for signatures, reader in _READERS:
        if start.startswith(signatures):
            return reader
    if not start:
        raise ImageError(name, "is empty; copy it again")
    raise ImageError(name, f"is not a PNG, JPEG, TIFF, BMP or WebP image (it starts with {start!r}); convert it to PNG")


def _too_large(size: str) -> str:
    return f"has {size} than the limit of {MAX_PIXELS:,}; reduce or crop it"


def _problem(image: ImageFile) -> str | None:
    """The reason why an image is rejected by its header, or None."""
    width, height = image.size
    is_16_bit = image.mode in _DEEP_MODES
    if width * height > MAX_PIXELS:
        return _too_large(f"{width} x {height} pixels, more")
    if getattr(image, "is_animated", False):
        return "contains several pages or frames; save the one to inspect as a separate file"
    if image.mode in ("I", "F"):
        return "contains 32-bit, signed or floating-point values; rescale it from its known range to 8 or 16 bits"
    if image.mode not in _MODES:
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
    if isinstance(image, PngImageFile) and image.tile[0].args in ("L;2", "L;4") and image.has_transparency_data:
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


def _file_bits(image: ImageFile) -> int:
    """Bits per channel as stored, which Pillow's mode may hide."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))
    return 16 if isinstance(image, PngImageFile) and ";16" in str(image.tile[0].args) else 8


def _info(image: ImageFile) -> ImageInfo:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # `size` already accounts for one of the two places that store an orientation
        width, height = image.tag_v2[256], image.tag_v2[257]
    if _orientation(image) >= 5:
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "La", *_DEEP_MODES) or (image.mode in ("P", "PA") and _palette_is_grey(image))
    return ImageInfo(height, width, 1 if grey else 3, 16 if image.mode in _DEEP_MODES else 8)


def _palette_is_grey(image: ImageFile) -> bool:
    if image.palette is None:
        raise ValueError("no palette")
    order, data = image.palette.getdata()
    entries = np.frombuffer(data, np.uint8)
    colours = entries.reshape(3, -1).T if order == "RGB;L" else entries.reshape(-1, len(order))[:, :3]
    return bool((colours == colours[:, :1]).all())


def _orientation(image: ImageFile) -> int:
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


def _load(image: ImageFile, info: ImageInfo, background: int, name: str) -> Pixels:
    if info.bits == 16:
        levels = np.array(image, dtype=np.uint16)[..., None]
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        return 65535 - levels if white_is_zero else levels  # Pillow inverts such files at 8 bits only
    plain: Image.Image = image
    if image.has_transparency_data:
        layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # La converts to nothing else
        alpha = layers.getchannel("A")
        if not alpha.getbbox():
            raise ImageError(name, "is fully transparent; save it without transparency")
        plain = Image.new("RGB", image.size, (background,) * 3)
        plain.paste(layers, mask=alpha)
    mode = "L" if info.channels == 1 else "RGB"
    plain = plain if plain.mode == mode else plain.convert(mode)
    return np.array(plain).reshape(*plain.size[::-1], info.channels)


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
        fix = "divide by the largest value that the camera can record, such as 255 or 4095"
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
