"""Self-contained HTML pages: one file, no outside address, and no style or script but its own, which it names by hash.

What people or file names say is text: Jinja2 escapes it, and the data of the script is JSON in which no tag can begin.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from oddlens.errors import MissingExtraError
from oddlens.io.atomic import write_bytes

_LOOKS_NUMERIC = re.compile(r"[<>≤≥≈+−-]?\s?\d")


@dataclass(frozen=True)
class Share:
    """A value from 0 to 1 with its interval, which a table shows as a bar; `live` lets it follow the threshold."""

    value: float
    low: float
    high: float
    text: str
    live: bool = False


Value = str | float | int | Share | None


@dataclass(frozen=True)
class Table:
    """Columns and rows; floats are shown with three decimals, None and NaN as an en dash."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Thumbnail:
    """A small image, as a data URL, with the text below it, which also says what it shows."""

    url: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A section of a page: text (a blank line starts a paragraph), a part that the script draws, a table, images."""

    heading: str
    text: str = ""
    part: Literal["", "scores", "ranking", "gallery", "training"] = ""
    table: Table | None = None
    thumbnails: tuple[Thumbnail, ...] = ()
    wide: bool = True  # false: stands beside the next one where the window is wide enough


@dataclass(frozen=True)
class Tile:
    """A key figure with its name and what explains it; the script updates those with the name of a `live` value."""

    name: str
    value: str
    detail: str = ""
    live: Literal["", "caught", "stopped", "flagged"] = ""


@dataclass(frozen=True)
class Notice:
    """A sentence that must not be overlooked: what is guaranteed, a fact that confirms it, or a warning."""

    level: Literal["guarantee", "good", "warning", "note"]
    text: str


@dataclass(frozen=True)
class Report:
    """A page: key figures and notices at the top, sections, and `provenance`, (name, value), at the end.

    `data` is what the script of the page works on, as JSON; without it, the page has nothing to work with.
    """

    title: str
    summary: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    provenance: tuple[tuple[str, str], ...]
    notices: tuple[Notice, ...] = ()
    data: dict[str, Any] | None = None


def require_jinja2() -> None:
    """Check that pages can be written.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("writing a report", "train") from error


def write_report(path: Path, report: Report) -> Path:
    """Write a report as one HTML file; the file is complete or does not exist.

    All text is escaped, so that file names may contain any characters.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, render_page(report).encode("utf-8", "replace"))  # names may contain bytes that are no text


def render_page(report: Report) -> str:
    """The HTML of a report.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    require_jinja2()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("oddlens.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_format_cell, paragraphs=_paragraphs, prose=_prose)
    environment.tests.update(numeric=_is_numeric, share=lambda value: isinstance(value, Share))
    folder = files("oddlens.reporting") / "templates"
    parts = {name: (folder / name).read_text("utf-8") for name in ("colors.css", "report.css", "report.js")}
    style, script = Markup(parts["colors.css"] + parts["report.css"]), Markup(parts["report.js"])  # noqa: S704
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html").render(report=report, style=style, script=script, policy=policy)


def _source(content: str) -> str:
    """The hash by which a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _format_cell(value: Value) -> str:
    """Format a table's value as text.

    >>> _format_cell(0.98765), _format_cell(12000), _format_cell(None), _format_cell("1.5%")
    ('0.988', '12,000', '–', '1.5%')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, Share):
        return value.text
    if isinstance(value, str):
        return value
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
    return text.replace("inf", "∞").replace("-", "−")


def _is_numeric(column: int, rows: tuple[tuple[Value, ...], ...]) -> bool:
    """Return whether a column is right-aligned: one of numbers, but not the first, which names the rows."""
    values = [row[column] for row in rows if row[column] not in (None, "", "–")]
    if column == 0 or any(isinstance(value, Share) for value in values):
        return False
    return all(not isinstance(value, str) or _LOOKS_NUMERIC.match(value) for value in values)


def _prose(text: str) -> Any:
    """Text as HTML, in which what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it is escaped


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
