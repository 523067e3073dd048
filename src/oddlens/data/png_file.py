"""A PNG reader that passes over text and colour profiles, which Pillow refuses where they are large.

Pillow's limits are settings of the whole process, which a library must not change.
"""

from __future__ import annotations

import zlib
from typing import IO, cast

from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile, PngStream

MAX_INFLATED_BYTES = 2**23  # of compressed text that may contain an orientation

_EXIF, _XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"  # keywords of text that may contain an orientation


class PngFile(PngImageFile):
    """Pillow's reader, which gets the chunks of the file from `PixelChunks`."""

    @property
    def png(self) -> PngStream | None:
        """The chunks of the open file; Pillow sets them when it opens the file and when it has read the pixels."""
        return self._chunks

    @png.setter
    def png(self, chunks: PngStream | None) -> None:
        self._chunks = None if chunks is None else PixelChunks(cast(IO[bytes], chunks.fp))


class PixelChunks(PngStream):
    """The chunks of a PNG file without colour profiles and, except for EXIF and XMP data, without text.

    A method for each kind of chunk reads one, and returns its content, whose checksum Pillow compares.

    Raises:
        ValueError: EXIF or XMP data inflate to more than `MAX_INFLATED_BYTES`.
    """

    def chunk_iCCP(self, pos: int, length: int) -> bytes:  # noqa: N802
        """A colour profile."""
        return ImageFile._safe_read(cast(IO[bytes], self.fp), length)

    def chunk_tEXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        """Text in Latin-1."""
        content, keyword, text = self._read_text(length)
        self._store(keyword, text, is_compressed=False)
        return content

    def chunk_zTXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        """Compressed text; its first byte is the method of compression."""
        content, keyword, text = self._read_text(length)
        self._store(keyword, text[1:], is_compressed=True)
        return content

    def chunk_iTXt(self, pos: int, length: int) -> bytes:  # noqa: N802
        """Text in Unicode, after two flags, a language and a translated keyword."""
        content, keyword, text = self._read_text(length)
        self._store(keyword, text[2:].split(b"\0", 2)[-1], is_compressed=text[:1] == b"\1")
        return content

    def _read_text(self, length: int) -> tuple[bytes, bytes, bytes]:
        content = ImageFile._safe_read(cast(IO[bytes], self.fp), length)
        keyword, _, text = content.partition(b"\0")
        return content, keyword, text

    def _store(self, keyword: bytes, text: bytes, is_compressed: bool) -> None:
        """Store EXIF or XMP data where Pillow looks for an orientation."""
        if keyword not in (_EXIF, _XMP):
            return
        text = _inflate(text) if is_compressed else text
        if keyword == _XMP:
            self.im_info["xmp"] = text
        else:
            self.im_info[_EXIF.decode()] = text.decode("latin-1")


def _inflate(data: bytes) -> bytes:
    """Decompress text; damaged text is empty, as in viewers."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        return b""
    if stream.unconsumed_tail:
        raise ValueError(f"EXIF or XMP data inflate to more than {MAX_INFLATED_BYTES:,} bytes")
    return text
