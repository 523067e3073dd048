"""stdout and stderr as any text can be written to them, whatever they can show and whatever becomes of them."""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import sys
from typing import TextIO

from oddlens.errors import OddlensError
from oddlens.io.text import as_text

PLAIN = {
    "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": ".", "•": "*", "≤": "<=", "≥": ">=", "≈": "~", "±": "+/-",
    "→": "->", "∞": "inf", "✓": "yes", "✗": "no", "‘": "'", "’": "'", "“": '"', "”": '"', "\N{NO-BREAK SPACE}": " ",
    "█": "#", "━": "-", "─": "-", "╸": "-", "╺": "-", "│": "|", "┃": "|",
}  # fmt: skip
INCOMPLETE = ("strict", "surrogateescape", "surrogatepass", "backslashreplace")  # error handlers that ours replaces
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # and what reorders text


def prepare_streams() -> None:
    """Let stdout and stderr take any text: what their encoding lacks is written in ASCII.

    A result that cannot be written to stdout is an error; notes that cannot be written to stderr are dropped.
    """
    codecs.register_error("oddlens", replace_unencodable)
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file would get this number, and what is printed would go into it
            os.open(os.devnull, flags)
    if sys.stdout is sys.__stdout__:  # and nothing else that collects what is printed
        sys.stdout = open_stream(ResultFile(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = open_stream(NotesFile(2, "w", closefd=False), sys.stderr)


def open_stream(file: io.FileIO, replaced: TextIO | None) -> TextIO:
    """A text stream to a file, with the encoding and the buffering of the one that it replaces; None was closed."""
    if not isinstance(replaced, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", errors="oddlens")
    errors = replaced.errors or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=replaced.encoding,
        errors="oddlens" if errors in INCOMPLETE else errors,
        line_buffering=replaced.line_buffering or replaced.write_through,
    )


class ResultFile(io.FileIO):
    """stdout: carries results."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Write bytes.

        Raises:
            BrokenPipeError: nothing reads them any more.
            OddlensError: they cannot be written, as on a full disk.
        """
        try:
            return super().write(content)
        except BrokenPipeError:
            raise
        except OSError as error:
            write_to_nowhere(self.fileno())
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OddlensError(
                f"the result cannot be printed to stdout ({reason}); files that the command writes are complete; "
                "redirect stdout to a file, or to /dev/null"
            ) from error


class NotesFile(io.FileIO):
    """stderr: carries notes and progress, without which the work goes on."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        """Write bytes, or drop them."""
        try:
            return super().write(content)
        except OSError:
            write_to_nowhere(self.fileno())
            return len(content)


def write_to_nowhere(descriptor: int) -> None:
    """Drop what is written from now on; otherwise Python would report the same error again when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Error handler of `codecs`: what an encoding lacks in ASCII, and bytes that are not text as their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(to_ascii, error.object[error.start : error.end])), error.end


def to_ascii(character: str) -> str:
    r"""A character in ASCII.

    >>> print(to_ascii("≤"), to_ascii("é"), to_ascii("字"))
    <= \xe9 \u5b57
    """
    if "\udc80" <= character <= "\udcff":  # an undecodable byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()


def visible(text: str) -> str:
    r"""Text of one line with its control characters escaped: in a file name, a terminal would obey them.

    >>> visible("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), as_text(text))
