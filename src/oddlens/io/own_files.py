"""Recognize what oddlens wrote: PNG files by a text chunk, folders by a marker file."""

from __future__ import annotations

import struct
from pathlib import Path

from oddlens import __version__

MARKER = ".oddlens.json"  # in every folder that oddlens made for its own files
PNG_METADATA = {"Software": f"oddlens {__version__}"}  # text chunks of every PNG file that oddlens writes
HEAD_BYTES = 256  # of a PNG file, in which its first text chunk lies

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OWN_TEXT = b"Software\0oddlens "


def is_own_png(path: str | Path) -> bool:
    """Whether a file is a PNG figure or map that oddlens wrote; False where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - of 60,000 files
            return has_own_chunk(file.read(HEAD_BYTES))
    except OSError:
        return False


def has_own_chunk(head: bytes) -> bool:
    """Whether the `HEAD_BYTES` of a PNG file contain oddlens's text chunk; the pixels' chunks end the search."""
    position = len(_SIGNATURE)
    while head.startswith(_SIGNATURE) and position + 8 <= len(head):
        length, name = struct.unpack(">I4s", head[position : position + 8])
        if name == b"IDAT":
            return False
        if name == b"tEXt" and head[position + 8 :].startswith(_OWN_TEXT):
            return True
        position += 12 + length
    return False
