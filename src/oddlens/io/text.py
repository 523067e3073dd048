"""Names as text: that any format can store, and that a message has room for."""

from __future__ import annotations

from collections.abc import Sequence


def as_text(name: str) -> str:
    r"""A file name in which bytes that are not UTF-8 are written as their numbers.

    >>> as_text("caf\udce9")
    'caf\\xe9'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_names(names: Sequence[str], max_count: int = 10) -> str:
    """The first names, and the number of the others.

    >>> list_names(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - max_count
    return ", ".join(names[:max_count]) + (f" and {more} more" if more > 0 else "")


def first_line(error: Exception) -> str:
    """The first line of a runtime's error, shortened to fit into one of ours."""
    return str(error).strip().partition("\n")[0][:200]
