"""The page that reports an evaluation: how good a detector is, what it guarantees, and every image behind it."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oddlens.config.manifest import Manifest
from oddlens.conformal.lot import LEVEL, MIN_IMAGES, LotTest
from oddlens.conformal.ranks import format_percent
from oddlens.detector.detector import Detector
from oddlens.evaluation.diagnosis import Diagnosis
from oddlens.evaluation.evaluate import Evaluation
from oddlens.io.text import as_text
from oddlens.metrics import auroc_interval, rate_interval
from oddlens.reporting import evaluation_tables as tables
from oddlens.reporting.gallery_images import MAX_SHOWN_IMAGES, Shown, embed_images
from oddlens.reporting.html import Notice, Report, Section, Share, Table, Tile, write_report
from oddlens.reporting.score_data import ScoredImages, page_data

BAR_NOTE = "Bars are shares of images flagged at the threshold, lines their 95% intervals (Clopper-Pearson)."


def write_evaluation_report(
    path: Path,
    title: str,
    detector: Detector,
    evaluation: Evaluation,
    command: str,
    detector_path: str,
    history: Sequence[dict[str, float]] = (),
    diagnosis: Diagnosis | None = None,
) -> Path:
    """Write the self-contained HTML report of an evaluation; `command` is listed as its provenance.

    `detector_path` is named in the commands that would move the threshold, and `history` is that of the training.
    `diagnosis` has what `check` says about the data.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    scored = ScoredImages.of_evaluation(evaluation)
    metrics = evaluation.metrics
    shown = embed_images(detector, evaluation.images, scored)
    data = work_data(detector, scored, shown, detector_path, history)
    sections = [
        Section("Scores and threshold", scores_text(scored), part="scores"),
        *([Section("Ranking", roc_text(metrics), part="ranking", wide=False)] if metrics["image_auroc"] else []),
        Section("Kinds of images", BAR_NOTE, table=shares_table(evaluation, scored), wide=False),
        Section("Images", gallery_text(len(shown), len(scored), detector.map_threshold is not None), part="gallery"),
        *explanation_sections(detector, evaluation),
        *([Section("Training", part="training")] if history else []),
        *([findings_section(diagnosis)] if diagnosis is not None else []),
    ]
    summary = tables.describe_metrics(metrics, detector.manifest.model.scores_reconstruction)
    report = Report(
        title,
        summary,
        key_figures(evaluation),
        tuple(sections),
        provenance(detector, command),
        notices(detector, evaluation),
        data,
    )
    return write_report(path, report)


def work_data(
    detector: Detector,
    scored: ScoredImages,
    shown: list[Shown],
    detector_path: str,
    history: Sequence[dict[str, float]] = (),
) -> dict[str, Any]:
    """What the page's script works on."""
    return {
        **page_data(scored),
        "command": threshold_command(detector_path),
        "images": shown,
        "has_heatmaps": detector.map_threshold is not None,
        "history": list(history),
    }


def threshold_command(detector_path: str) -> str:
    """The command that moves a detector's threshold, up to the rate."""
    return f"oddlens threshold {shlex.quote(as_text(detector_path))} --false-alarm-rate "


def key_figures(evaluation: Evaluation) -> tuple[Tile, ...]:
    """The figures at the top: what is caught and flagged at the detector's threshold, and what is guaranteed."""
    metrics = evaluation.metrics
    tiles = [
        rate_tile("Anomalies caught", "caught", evaluation, 1),
        rate_tile("False alarms", "stopped", evaluation, 0),
        guarantee_tile(evaluation.decisions.guaranteed_rate, evaluation.decisions.settings.confidence),
    ]
    if metrics["image_auroc"] is not None:
        low, high = metrics["image_auroc_ci"]
        tiles.append(Tile("Image AUROC", f"{metrics['image_auroc']:.3f}", f"95%: {low:.3f} to {high:.3f}"))
    if "pixel_auroc" in metrics:
        tiles.append(Tile("Pixel AUROC", f"{metrics['pixel_auroc']:.3f}", f"AUPRO {metrics['aupro']:.3f}"))
    at_99 = tables.format_rate_at_99(metrics)
    if at_99 is not None:
        value, _, note = at_99.partition(" (")
        scores = f", from {metrics['n_scores_at_99']:,} scores" if note else ""
        tiles.append(Tile("Caught with 99", f"{'≤ ' if note else ''}{value}", f"calibration images{scores}"))
    return tuple(tiles)


def rate_tile(name: str, live: Any, evaluation: Evaluation, label: int) -> Tile:
    """The share of images of a label that is flagged, with its interval."""
    counted = evaluation.rate_mask & (evaluation.labels == label)
    n, hits = int(counted.sum()), int((counted & (evaluation.scores > evaluation.thresholds)).sum())
    return Tile(name, f"{hits / n:.1%}" if n else "not measured", format_interval(hits, n), live)


def format_interval(hits: int, n: int) -> str:
    """Counts with the 95% interval of their rate, as the page's script writes them too; empty without images.

    >>> format_interval(3, 250)
    '3 of 250 · 95%: 0.2% to 3.5%'
    """
    if not n:
        return ""
    low, high = rate_interval(hits, n)
    return f"{hits:,} of {n:,} · 95%: {low:.1%} to {high:.1%}"


def guarantee_tile(rate: float | None, confidence: float | None) -> Tile:
    """The false-alarm rate that is guaranteed."""
    if rate is None:
        return Tile("Guaranteed", "nothing", "a percentile of training scores decides")
    scope = "on average" if confidence is None else f"with {format_percent(confidence)} confidence"
    return Tile("Guaranteed", f"≤ {format_percent(float(f'{rate:.3g}'))}", f"false alarms, {scope}")


def notices(detector: Detector, evaluation: Evaluation) -> tuple[Notice, ...]:
    """What is guaranteed, in words, and whether the normal images as a whole and their false alarms confirm it."""
    lot = lot_notices(evaluation.lot, evaluation.lot_warnings, "normal test images")
    return (*promise_notices(detector), *lot, *(Notice("warning", text) for text in evaluation.alarms_warnings))


def promise_notices(detector: Detector) -> tuple[Notice, ...]:
    """What the threshold guarantees, in words."""
    is_guaranteed = detector.decisions_.guaranteed_rate is not None
    return tuple(Notice("guarantee" if is_guaranteed else "note", text) for text in detector.decisions_.promises())


def lot_notices(lot: LotTest | None, warnings: Sequence[str], images: str) -> tuple[Notice, ...]:
    """Whether images as a whole still resemble those that the threshold was computed from."""
    if warnings:
        return tuple(Notice("warning", text) for text in warnings)
    if lot is None:
        return (Notice("note", f"Lot test: not made; it takes {MIN_IMAGES} {images} and calibration images."),)
    text = (
        f"Lot test: as a whole, the {lot.n:,} {images} do not differ from the calibration images "
        f"(p = {lot.p_value:.2g}; a difference is reported at {LEVEL:g} or less)."
    )
    return (Notice("good", text),)


def scores_text(scored: ScoredImages) -> str:
    """How to read the histograms, and what rates leave out."""
    text = "Images to the right of the line are flagged. Numbers, charts and verdicts on this page follow the line."
    left_out = int((~scored.counted).sum())
    if left_out:
        text += f" Rates leave out {left_out:,} images from which a threshold was computed."
    return text


def roc_text(metrics: dict[str, Any]) -> str:
    """What the curve shows."""
    return f"Anomalies caught against normal images flagged, at every threshold; AUROC {tables.format_auroc(metrics)}."


def gallery_text(n_shown: int, n: int, has_heatmaps: bool) -> str:
    """Which images have a place in the gallery, in which order, and what the colours mean."""
    text = "Sorted by p-value, the most anomalous first. "
    if n_shown < n:
        text += (
            f"{n_shown:,} of {n:,} images are shown, {MAX_SHOWN_IMAGES} at most: misses, false alarms and borderline "
            "images first, then a sample of the others. Scores and verdicts of all images are in this file. "
        )
    if has_heatmaps:
        text += (
            "Heatmaps share one scale: no colour is normal, yellow is the level that maps of normal images stay below, "
            "red is twice that; what is above the level is outlined."
        )
    return text


def shares_table(evaluation: Evaluation, scored: ScoredImages) -> Table:
    """A row for each kind of image: its number, the share that is flagged, and its AUROC, with intervals."""
    kinds, rows = np.array(evaluation.images.kinds), []
    normal, flagged = evaluation.labels == 0, evaluation.scores > evaluation.thresholds
    for kind in scored.kind_names:
        of_kind = kinds == kind
        counted = of_kind & evaluation.rate_mask
        hits, n = int((flagged & counted).sum()), int(counted.sum())
        area, interval = evaluation.metrics["per_class"][kind]["auroc"], None
        if area is not None:
            compared = of_kind | normal
            interval = auroc_interval(evaluation.labels[compared], evaluation.scores[compared])
        name = tables.readable_kind(kind) + ("" if evaluation.labels[of_kind][0] else " (normal)")
        rows.append((name, int(of_kind.sum()), share_of(hits, n), format_area(area, interval)))
    return Table(("kind", "images", "flagged", "AUROC"), tuple(rows))


def share_of(hits: int, n: int) -> Share:
    """A share with its interval, as a bar that follows the threshold."""
    low, high = rate_interval(hits, n) if n else (0.0, 0.0)
    text = f"{hits / n:.1%} ({low:.1%} to {high:.1%})" if n else "–"
    return Share(hits / n if n else 0.0, low, high, text, live=True)


def format_area(area: float | None, interval: tuple[float, float] | None) -> str | None:
    """Format an AUROC with its interval."""
    return None if area is None or interval is None else f"{area:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def explanation_sections(detector: Detector, evaluation: Evaluation) -> list[Section]:
    """The thresholds, why this detector, and why it misses what it misses."""
    metrics = evaluation.metrics
    missed = tables.missed_kinds_table(metrics) if evaluation.distorted else None
    remarks = tables.remarks_table(detector)
    text = " ".join(detector.decisions_.summary_lines())
    sections = [Section("Decisions", text, table=tables.decisions_table(metrics))]
    if remarks is not None:
        sections.append(Section("Why this detector", "Based on normal training images only.", table=remarks))
    if missed is not None:
        sections.append(Section("Why some kinds are missed", table=missed))
    return sections


def findings_section(diagnosis: Diagnosis) -> Section:
    """What `check` says about the data, the gravest first."""
    levels = ("error", "warning", "note")
    ordered = sorted(diagnosis.findings, key=lambda finding: levels.index(finding.level))
    if not ordered:
        return Section("Data check", "No problems with the data.")
    text = "`oddlens check DATA --html FILE` shows the images."
    rows = tuple((finding.level, finding.name, finding.text) for finding in ordered)
    return Section("Data check", text, table=Table(("level", "finding", "what it means"), rows))


def provenance(detector: Detector, command: str) -> tuple[tuple[str, str], ...]:
    """Return the command, seed, machine, versions and data behind a report, as (name, value)."""
    manifest = detector.manifest
    return (
        ("command", command),
        ("detector", describe_detector(manifest)),
        ("seed", str(manifest.training.seed)),
        ("machine", f"{platform.machine()}, {os.cpu_count()} logical processors, {platform.system()}"),
        ("runtime", detector.backend.name),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("trained on", f"{manifest.data.n_training:,} images of {manifest.data.source} ({manifest.data.normal})"),
        ("fingerprint of these", manifest.data.fingerprint),
        ("calibrated on", f"{manifest.data.n_calibration:,} images ({manifest.data.calibration_source})"),
        *((f"contains {notice.name}", f"{notice.licence}, {notice.source}") for notice in manifest.notices),
    )


def describe_detector(manifest: Manifest) -> str:
    """Family, input, date and digest of a detector."""
    spec = manifest.input
    digest = f", digest {manifest.digest}" if manifest.digest else ""
    return f"{manifest.model.family}, {spec.width} x {spec.height} x {spec.channels}, of {manifest.created}{digest}"
