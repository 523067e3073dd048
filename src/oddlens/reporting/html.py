"""One self-contained HTML page: pictures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from oddlens.errors import DataError, MissingExtraError
from oddlens.io.atomic import write_bytes

Value = str | float | int | None

_PNG_HEADER = struct.Struct(">8s4x4sII")  # signature, length, chunk name, width, height
_LOOKS_NUMERIC = re.compile(r"[<>≤≥≈+−-]?\s?\d")


@dataclass(frozen=True)
class Table:
    """Columns and rows; floats are shown with three decimals, None and NaN as an en dash, text as it is."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Section:
    """One part of a page: text (a blank line starts a paragraph), a table, a PNG picture with its caption."""

    heading: str
    text: str = ""
    figure: Path | None = None
    caption: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Report:
    """A page: the key figures (`facts`) on top as (name, value), where it comes from (`provenance`) at the end.

    What stands in parentheses after a key figure, "0.983 (0.971 to 0.990)", is set smaller.
    """

    title: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...]


def write_report(path: Path, report: Report) -> Path:
    """Write a report as one HTML file that opens anywhere; the file appears whole or not at all.

    All text is escaped, so a file name can hold anything.

    Raises:
        DataError: a section's picture is missing or is not a PNG file.
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("writing a report", "train") from error
    pages = Environment(
        loader=PackageLoader("oddlens.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(cell=_cell, paragraphs=_paragraphs, picture=_picture)
    pages.tests["numeric"] = _is_numeric
    html = pages.get_template("report.html").render(report=report)
    return write_bytes(path, html.encode("utf-8", "replace"))  # file names may hold bytes that are no text


def _cell(value: Value) -> str:
    """A table's value as text.

    >>> _cell(0.98765), _cell(12000), _cell(None), _cell("1.5%")
    ('0.988', '12,000', '–', '1.5%')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return text.replace("inf", "∞").replace("-", "−")


def _is_numeric(column: int, rows: tuple[tuple[Value, ...], ...]) -> bool:
    """Whether a column is set flush right: a column of numbers, not the first one, which names the rows."""
    texts = [row[column] for row in rows if row[column] not in (None, "", "–")]
    return column > 0 and all(not isinstance(text, str) or _LOOKS_NUMERIC.match(text) for text in texts)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _picture(path: Path) -> dict[str, str | int]:
    """A PNG file as a data address, with its size in nominal pixels (`figures.save` writes two for each)."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); save the figure before the report") from error
    signature, chunk, width, height = _PNG_HEADER.unpack(content[:24].ljust(24))
    if (signature, chunk) != (b"\x89PNG\r\n\x1a\n", b"IHDR"):
        raise DataError(f"{path}: is not a PNG file (it begins with {content[:8]!r}); save it with figures.save")
    address = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return {"address": address, "width": round(width / 2), "height": round(height / 2)}
