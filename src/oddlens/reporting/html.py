"""Self-contained HTML reports: images are embedded, and there are no scripts or external resources."""

from __future__ import annotations

import base64
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from oddlens.errors import MissingExtraError
from oddlens.io.atomic import write_bytes

Value = str | float | int | None

_PNG_SIZE = struct.Struct(">II")  # width and height, after the signature and the beginning of the first chunk
_LOOKS_NUMERIC = re.compile(r"[<>≤≥≈+−-]?\s?\d")


@dataclass(frozen=True)
class Table:
    """Columns and rows; floats are shown with three decimals, None and NaN as an en dash."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Section:
    """One section of a report: text (a blank line starts a paragraph), a table, and a figure (PNG) with its caption."""

    heading: str
    text: str = ""
    figure: bytes | None = None
    caption: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Report:
    """A report: key figures (`facts`) at the top, sections, and `provenance` at the end; both are (name, value) pairs.

    Text in parentheses after a key figure, as in "0.983 (0.971 to 0.990)", is set smaller.
    """

    title: str
    summary: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...]


def write_report(path: Path, report: Report) -> Path:
    """Write a report as one HTML file; the file is complete or does not exist.

    All text is escaped, so that file names may contain any characters.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("writing a report", "train") from error
    environment = Environment(
        loader=PackageLoader("oddlens.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_format_cell, paragraphs=_paragraphs, embed_png=_embed_png)
    environment.tests["numeric"] = _is_numeric
    html = environment.get_template("report.html").render(report=report)
    return write_bytes(path, html.encode("utf-8", "replace"))  # file names may contain bytes that are not valid text


def _format_cell(value: Value) -> str:
    """Format a table's value as text.

    >>> _format_cell(0.98765), _format_cell(12000), _format_cell(None), _format_cell("1.5%")
    ('0.988', '12,000', '–', '1.5%')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return text.replace("inf", "∞").replace("-", "−")


def _is_numeric(column: int, rows: tuple[tuple[Value, ...], ...]) -> bool:
    """Return whether a column is right-aligned: one of numbers, but not the first, which names the rows."""
    texts = [row[column] for row in rows if row[column] not in (None, "", "–")]
    return column > 0 and all(not isinstance(text, str) or _LOOKS_NUMERIC.match(text) for text in texts)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _embed_png(content: bytes) -> dict[str, str | int]:
    """Return a PNG image as a data URL, with its size in nominal pixels (`figures.render` draws two for each)."""
    width, height = _PNG_SIZE.unpack(content[16:24])
    url = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return {"url": url, "width": round(width / 2), "height": round(height / 2)}
