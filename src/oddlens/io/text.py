"""Names as text: that any format can store, and that a message has room for."""

from __future__ import annotations

from collections.abc import Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of cells that a spreadsheet would run


def as_text(name: str) -> str:
    r"""A file name in which bytes that are not UTF-8 are written as their numbers.

    >>> as_text("caf\udce9")
    'caf\\xe9'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    r"""A text of a user's file as part of a message of one line.

    >>> one_line("a\r\n b")
    'a b'
    """
    return " ".join(text.split())


def list_names(names: Sequence[str], max_count: int = 10) -> str:
    """The first names, and the number of the others.

    >>> list_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - max_count
    return ", ".join(names[:max_count]) + (f" and {more} more" if more > 0 else "")


def as_cell(value: object) -> object:
    """A value in CSV: a quote before text that a spreadsheet would run as a formula; numbers stay numbers.

    >>> as_cell("=1+1.png"), as_cell(-1.5)
    ("'=1+1.png", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def from_cell(text: str) -> str:
    """What was written with `as_cell`.

    >>> from_cell("'=1+1.png"), from_cell("'a'.png")
    ('=1+1.png', "'a'.png")
    """
    return text[1:] if text.startswith(tuple(f"'{start}" for start in FORMULA_STARTS)) else text


def first_line(error: Exception) -> str:
    """The first line of a runtime's error, shortened to fit into one of ours."""
    return str(error).strip().partition("\n")[0][:200]
