"""The page that reports verdicts on images of which nobody said what they are: `oddlens score --report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oddlens.conformal.lot import LotTest
from oddlens.conformal.ranks import format_percent
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts
from oddlens.reporting.evaluation_report import (
    gallery_text,
    guarantee_tile,
    lot_notices,
    promise_notices,
    provenance,
    work_data,
)
from oddlens.reporting.gallery_images import embed_images
from oddlens.reporting.html import Notice, Report, Section, Tile, write_report
from oddlens.reporting.score_data import ScoredImages


def write_score_report(
    path: Path,
    title: str,
    detector: Detector,
    images: ImageSet,
    verdicts: Verdicts,
    lot: LotTest | None,
    lot_warnings: Sequence[str],
    command: str,
    detector_path: str,
    fdr: float | None = None,
) -> Path:
    """Write the self-contained HTML report of verdicts on images, with the test of the lot and its warnings.

    `verdicts` are on all `images`, in their order; `fdr` is the false discovery rate by which they were decided.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    scored = ScoredImages.of_verdicts(verdicts, images.groups, detector.decisions_)
    shown = embed_images(detector, images, scored)
    data = work_data(detector, scored, shown, detector_path)
    text = "Images to the right of the line are flagged. Numbers and verdicts on this page follow the line."
    sections = (
        Section("Scores and threshold", text, part="scores"),
        Section("Images", gallery_text(len(shown), len(scored), detector.map_threshold is not None), part="gallery"),
    )
    n, n_flagged = len(scored), int(scored.flagged.sum())
    tiles = (
        Tile("Flagged", f"{n_flagged / n:.1%}" if n else "–", f"{n_flagged:,} of {n:,} images", "flagged"),
        guarantee_tile(detector.decisions_.guaranteed_rate, detector.decisions_.settings.confidence)
        if fdr is None
        else Tile("False discoveries", f"≤ {format_percent(fdr)}", "of the flagged images, on average"),
    )
    notices = (*promises(detector, fdr), *lot_notices(lot, lot_warnings, "images"))
    report = Report(title, "", tiles, sections, provenance(detector, command), notices, data)
    return write_report(path, report)


def promises(detector: Detector, fdr: float | None) -> tuple[Notice, ...]:
    """What is guaranteed, in words: a false-alarm rate, or a false discovery rate."""
    if fdr is None:
        return promise_notices(detector)
    text = (
        f"On average, at most {format_percent(fdr)} of the flagged images are normal, provided the normal ones "
        "resemble the calibration images."
    )
    return (Notice("guarantee", text),)
