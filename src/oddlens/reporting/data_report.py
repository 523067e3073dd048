"""The data doctor's page: what was found in a data set, with pictures to look at."""

from __future__ import annotations

from pathlib import Path

from oddlens.data.image_io import Pixels
from oddlens.errors import ImageError
from oddlens.evaluation.data_checks import Diagnosis, Finding
from oddlens.reporting import figures
from oddlens.reporting.html import Report, Section, Table, write_report

MAX_SHOWN_IMAGES = 18  # pictures of one finding
MAX_LISTED_FILES = 40  # files of one finding in its table


def write_data_report(path: Path, diagnosis: Diagnosis, command: str) -> Path:
    """Write a diagnosis as one HTML file, its pictures in a folder beside it; `command` is what made it.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        OddlensError: the file cannot be written.
    """
    facts = diagnosis.facts
    levels = {level: [f for f in diagnosis.findings if f.level == level] for level in ("error", "warning", "note")}
    counted = [f"{len(found)} {level}{'s' * (len(found) != 1)}" for level, found in levels.items() if found]
    summary = ", ".join(counted) + "." if counted else "Nothing wrong was found."
    cards = (
        ("normal images to learn from", f"{facts['n_train']:,}"),
        ("test images", f"{sum(facts['n_test'].values()):,} ({len(facts['n_test'])} kinds)"),
        ("masks", f"{facts['n_masks']:,}"),
    )
    ordered = [finding for found in levels.values() for finding in found]
    sections = tuple(finding_section(finding, diagnosis, path.with_suffix("")) for finding in ordered)
    sizes = Table(("width", "height", "images"), tuple((s["width"], s["height"], s["n"]) for s in facts["sizes"]))
    made = (("command", command), ("data", facts["source"]), ("normal", facts["normal"]))
    title = f"What is in {facts['source']}"
    measured = (Section("Sizes", table=sizes),) if sizes.rows else ()
    return write_report(path, Report(title, summary, cards, (*sections, *measured), made))


def finding_section(finding: Finding, diagnosis: Diagnosis, folder: Path) -> Section:
    """A finding in words, with its files, and those that can be shown."""
    heading = f"{finding.level.capitalize()}: {finding.name}"
    text = finding.text[0].upper() + finding.text[1:] + "."
    if not finding.files:
        return Section(heading, text)
    columns = ("file", "resembles") if finding.twins else ("file",)
    beside = finding.twins or ("",) * len(finding.files)
    rows = [(name, twin)[: len(columns)] for name, twin in zip(finding.files, beside, strict=True)]
    if len(rows) > MAX_LISTED_FILES:
        text += f" The first {MAX_LISTED_FILES} of {len(rows)} are listed."
    table = Table(columns, tuple(rows[:MAX_LISTED_FILES]))
    shown = [name for row in rows for name in row][: MAX_SHOWN_IMAGES * len(columns)]
    pictures = [(name, pixels) for name in shown if (pixels := load_image(diagnosis, name)) is not None]
    if not pictures:
        return Section(heading, text, table=table)
    sheet = figures.contact_sheet([pixels for _, pixels in pictures], [Path(name).name for name, _ in pictures])
    drawn = figures.save_figure(sheet, folder / f"{finding.name.replace(' ', '-')}.png")
    caption = "Each beside what it resembles." if finding.twins else ""
    return Section(heading, text, drawn, caption, table)


def load_image(diagnosis: Diagnosis, name: str) -> Pixels | None:
    """An image of the set by its name; None for what is no image, or cannot be read."""
    for images in (diagnosis.data.train, diagnosis.data.test):
        if name in images.names:
            try:
                return images.image(images.names.index(name))
            except ImageError:
                return None
    return None
