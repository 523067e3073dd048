"""Read image files, arrays and Pillow's images: the only module that makes pixels of them.

Images are decoded as a viewer shows them: EXIF orientation is applied, transparent pixels are composited over white,
palettes are looked up, CMYK and YCbCr are converted to RGB; ICC profiles and gamma are ignored. Of a GIF, the first
frame is decoded. Other files that cannot be decoded without losing levels, pages or channels are rejected, so a
detector gets everything that the camera recorded.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from oddlens.config.base import InputSpec
from oddlens.data.image_header import (
    ImageInfo,
    detect_reader,
    header_problem,
    image_info,
    pgm_maximum,
    read_orientation,
    too_large,
)
from oddlens.errors import ImageError

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Index = npt.NDArray[np.intp]  # which of several images

DECODERS = min(4, os.cpu_count() or 1)  # threads, of which Pillow decodes in several at once


def probe(source: Path | bytes) -> ImageInfo:
    """Read the header of an image file, or of its content, without decoding any pixel.

    Raises:
        ImageError: the file cannot be read, is not a supported image, or is of a kind that `decode` rejects.
    """
    with _open_image(source) as image:
        return image_info(image)


def decode(source: Path | bytes, spec: InputSpec | None = None) -> Pixels:
    """Decode an image file, or its content, to (H, W, C), uint8 or uint16, with the shape and type that `probe` gives.

    1-bit images and palettes that contain only greys become grey. Of a multi-picture JPEG (MPO) the main image is
    decoded. Transparent pixels are composited over white. With `spec`, the result may already have its size, if that
    is quicker and gives the same pixels as `preprocessing.fit_to`.

    Raises:
        ImageError: as for `probe`, the pixels are damaged or truncated, or all are transparent.
    """
    with _open_image(source) as image:
        return _pixels(image, _over_white, _name(source), spec)


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
        problem = header_problem(image) if all(image.size) else "has no pixels; pass another image"
        if problem:
            raise ImageError(name, problem)
        return _pixels(image, _over_white, name)


def _pixels(
    image: Image.Image, flatten: Callable[[Image.Image, str], Image.Image], name: str, spec: InputSpec | None = None
) -> Pixels:
    """Decode an open image, whose header was checked; `flatten` removes its transparency. For `spec` see `decode`."""
    info, orientation = image_info(image), read_orientation(image)
    if isinstance(image, PpmImageFile) and info.bits == 16:
        return _load_deep_pgm(image)
    _load_unmapped(image)
    if flatten is _over_black and image.mode == "P" and _hides_levels(image):
        pixels: Pixels = np.array(image)[..., None]
    else:
        upright = orientation == 1 and spec is not None and spec.channels in (info.channels, 3)
        pixels = _load(image, info, flatten, name, spec if upright else None)
    if not isinstance(image, TiffImageFile):  # Pillow rotates TIFF itself
        if read_orientation(image) != orientation:
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
        detect_reader(file, name)(file) as image,
    ):
        problem = header_problem(image)
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
        raise ImageError(name, too_large("more pixels")) from error
    except Exception as error:  # on damaged bytes the readers raise many kinds of errors
        if isinstance(error, OSError) and error.errno:
            raise ImageError(name, f"cannot be read ({error.strerror}); check its permissions and the disk") from error
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, f"{problem} ({cause}); {fix}") from error


def _hides_levels(image: Image.Image) -> bool:
    """Whether the palette of an image shows several of its levels in one colour."""
    palette = image.getpalette("RGB") or []
    levels = np.unique(np.array(image)).tolist()
    colours = {tuple(palette[3 * level : 3 * level + 3]) or (0, 0, 0) for level in levels}
    return len(colours) < len(levels)


def _load(
    image: Image.Image,
    info: ImageInfo,
    flatten: Callable[[Image.Image, str], Image.Image],
    name: str,
    spec: InputSpec | None,
) -> Pixels:
    if info.bits == 16:
        levels = np.array(image, dtype=np.uint16)[..., None]
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0
        return 65535 - levels if white_is_zero else levels  # Pillow inverts such files at 8 bits only
    plain = image
    if image.has_transparency_data:
        plain = flatten((image.convert("LA") if image.mode == "La" else image).convert("RGBA"), name)  # La: only to LA
    mode = "L" if info.channels == 1 else "RGB"
    plain = plain if plain.mode == mode else plain.convert(mode)
    if spec is not None and plain.size != (spec.width, spec.height):
        plain = plain.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    return np.array(plain).reshape(*plain.size[::-1], info.channels)


def _load_deep_pgm(image: PpmImageFile) -> Pixels:
    """The levels of a 16-bit PGM file as the camera wrote them; Pillow stretches those of 12 bits, and slowly."""
    codec, offset, maximum = image.tile[0].codec_name, image.tile[0].offset, pgm_maximum(image)
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
