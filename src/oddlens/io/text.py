"""File names as text that any format can store."""

from __future__ import annotations


def as_text(name: str) -> str:
    r"""A file name in which bytes that are not UTF-8 are written as their numbers.

    >>> as_text("caf\udce9")
    'caf\\xe9'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
