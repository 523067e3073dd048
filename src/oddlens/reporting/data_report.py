"""The HTML report of the data checks: every finding with its files, and images to look at."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from oddlens.data.image_io import Pixels
from oddlens.data.preprocessing import resize, value_max
from oddlens.errors import ImageError
from oddlens.evaluation.diagnosis import Diagnosis, Finding
from oddlens.reporting.embedded_images import image_url
from oddlens.reporting.html import Notice, Report, Section, Table, Thumbnail, Tile, write_report

MAX_SHOWN_FILES = 18  # files of a finding whose images are drawn
MAX_SHOWN_SIDE = 256  # pixels of an image on the page, twice what there is room for
MAX_TABLE_ROWS = 40  # files of a finding in its table


def write_data_report(path: Path, diagnosis: Diagnosis, command: str, shown: Callable[[str], str] = str) -> Path:
    """Write a diagnosis as one HTML file with its images; `command` is the provenance.

    `shown` gives the form of each name and sentence on the page, for one that says less of where the files are.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    facts, source = diagnosis.facts, shown(diagnosis.facts["source"])
    by_level = {level: [f for f in diagnosis.findings if f.level == level] for level in ("error", "warning", "note")}
    counts = [
        f"{len(findings)} {level}{'s' * (len(findings) != 1)}" for level, findings in by_level.items() if findings
    ]
    summary = ", ".join(counts) + "." if counts else "No problems found."
    tiles = (
        Tile("Normal training images", f"{facts['n_train']:,}"),
        Tile("Test images", f"{sum(facts['n_test'].values()):,}", f"{len(facts['n_test'])} kinds"),
        Tile("Masks", f"{facts['n_masks']:,}"),
    )
    problems = by_level["error"] + by_level["warning"]
    notices = (Notice("warning" if problems else "good", summary),)
    ordered = [finding for findings in by_level.values() for finding in findings]
    sections = [finding_section(finding, diagnosis, shown) for finding in ordered]
    sizes = Table(("width", "height", "images"), tuple((s["width"], s["height"], s["n"]) for s in facts["sizes"]))
    if sizes.rows:
        sections.append(Section("Image sizes", table=sizes))
    provenance = (("command", command), ("data", source), ("normal", facts["normal"]))
    return write_report(path, Report(f"Data check: {source}", "", tiles, tuple(sections), provenance, notices))


def finding_section(finding: Finding, diagnosis: Diagnosis, shown: Callable[[str], str] = str) -> Section:
    """Describe a finding, list its files, and draw those that can be read."""
    heading = f"{finding.level.capitalize()}: {finding.name}"
    sentence = shown(finding.text)
    text = sentence[0].upper() + sentence[1:] + "."
    if not finding.files:
        return Section(heading, text)
    files, similar = [[shown(name) for name in names] for names in (finding.files, finding.similar)]
    cells = {"file": files, "resembles": similar, "what sets it apart": finding.reasons}
    columns = tuple(name for name, values in cells.items() if values)
    rows = list(zip(*(cells[name] for name in columns), strict=True))
    if len(rows) > MAX_TABLE_ROWS:
        text += f" The table lists the first {MAX_TABLE_ROWS} of {len(rows)} files."
    table = Table(columns, tuple(rows[:MAX_TABLE_ROWS]))
    drawn = zip(finding.files, finding.similar, strict=True) if finding.similar else ((name,) for name in finding.files)
    names = [name for row in itertools.islice(drawn, MAX_SHOWN_FILES) for name in row]
    thumbnails = tuple(
        Thumbnail(image_url(pixels, gray_range(pixels), MAX_SHOWN_SIDE), Path(name).name)
        for name in names
        if (pixels := load_image(diagnosis, name)) is not None
    )
    if thumbnails and finding.similar:
        text += " Each image is followed by the one that it resembles."
    return Section(heading, text, table=table, thumbnails=thumbnails)


def gray_range(pixels: Pixels) -> int:
    """The value of white in an image: of 8, 12 or 16 bits."""
    return value_max(int(pixels.max()), 8 if pixels.dtype == np.uint8 else 16)


def load_image(diagnosis: Diagnosis, name: str) -> Pixels | None:
    """Return an image of the data set by its name, at most `MAX_SHOWN_SIDE` large; None if it cannot be read."""
    for images in (diagnosis.data.train, diagnosis.data.test):
        if name in images.names:
            try:
                image = images.image(images.names.index(name))
            except ImageError:
                return None
            height, width, _ = image.shape
            scale = min(1.0, MAX_SHOWN_SIDE / max(height, width))
            return image if scale == 1 else resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    return None
