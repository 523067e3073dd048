"""The figures, tables and sentences that report an evaluation: what a detector catches and what it misses."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.evaluation import corruptions
from oddlens.evaluation.evaluate import N_REFERENCE, Evaluation, missing_metrics
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import score_batches
from oddlens.reporting import figures, image_grids
from oddlens.reporting.canvas import format_score
from oddlens.reporting.gallery import gallery
from oddlens.reporting.html import Report, Section, Table, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_STRIP_IMAGES = 10  # images in a figure of reconstructions
MAX_GALLERY_IMAGES = 12  # images in the figure to show around, if there are so many kinds
GALLERY_IMAGES = 6  # the same, where there are fewer kinds
MIN_GOOD_AUROC = 0.9  # an AUROC below this is reported as a weakness

MISS_REASONS = {  # why reconstruction error does not detect a kind of distortion
    "blank": "an empty image is the easiest to reconstruct, so its error is lower than that of any normal image",
    "dimmed": "a darker image has smaller values and so smaller errors: dimming adds an anomaly but lowers the score",
    "hole": "the rest of the image is normal, and a missing part adds no error where nothing has to be reconstructed",
    "quarter_turn": "the local parts of a rotated image (strokes, edges) are normal and are reconstructed just as well",
    "upside_down": "the local parts of a flipped image (strokes, edges) are normal and are reconstructed just as well",
    "glyphs": "unknown signs consist of strokes like those of normal images, which the model reconstructs well",
    "blur": "a smooth image is simpler than a sharp one and easier to reconstruct",
}
RECONSTRUCTION_NOTE = (
    "Reconstruction error depends more on how complex an image is than on how unusual it is: images with large smooth "
    "areas are reconstructed well, whatever they show, and normal images with fine detail are not."
)


@dataclass(frozen=True)
class ExampleGroup:
    """Images of one kind, with a detector's outputs."""

    kind: str
    index: npt.NDArray[np.intp]  # into the images of the evaluation
    pixels: Pixels
    outputs: Predictions


def example_groups(detector: Detector, evaluation: Evaluation, count: int) -> list[ExampleGroup]:
    """Score the first `count` images of each kind, normal ones first; they are not selected by their scores."""
    kinds = np.array(evaluation.images.kinds)
    groups = []
    for kind in evaluation.kinds:
        index = np.flatnonzero(kinds == kind)[:count]
        pixels = evaluation.images.subset(index).load(detector.spec)
        (outputs,) = score_batches(detector.backend, [pixels])
        groups.append(ExampleGroup(kind, index, pixels, outputs))
    return groups


def build_examples(groups: Sequence[ExampleGroup], evaluation: Evaluation, count: int) -> list[image_grids.Example]:
    """Return the first `count` images of each group as rows for `image_grids.verdict_grid`."""
    examples, thresholds = [], evaluation.thresholds
    for group in groups:
        score, anomaly_map, reconstruction = group.outputs
        for i, place in enumerate(group.index[:count]):
            examples.append(
                image_grids.Example(
                    pixels=group.pixels[i],
                    reconstruction=None if reconstruction is None else reconstruction[i],
                    anomaly_map=None if anomaly_map is None else anomaly_map[i],
                    mask=evaluation.images.mask(int(place)),
                    kind=readable_kind(group.kind),
                    score=float(score[i]),
                    threshold=float(thresholds[place]),
                    name=evaluation.images.names[place],
                    truth=1 if evaluation.labels[place] else 0,
                )
            )
    return examples


def draw_gallery(detector: Detector, evaluation: Evaluation, title: str) -> Figure:
    """Draw the first test images of each kind with their heatmaps and verdicts, and what is caught at which rate."""
    count = max(1, GALLERY_IMAGES // len(evaluation.kinds))
    examples = build_examples(example_groups(detector, evaluation, count), evaluation, count)
    summary = " ".join(describe_rates(evaluation.metrics)[:1])
    return gallery(examples[:MAX_GALLERY_IMAGES], detector.spec.value_max, detector.map_threshold, title, summary)


def draw_figures(
    detector: Detector, evaluation: Evaluation, history: Sequence[dict[str, float]] = ()
) -> dict[str, bytes]:
    """Draw all figures of an evaluation. Returns them as PNG by name."""
    groups, value_max = example_groups(detector, evaluation, MAX_STRIP_IMAGES), detector.spec.value_max
    drawn: dict[str, Any] = {}
    for group in groups:
        if group.outputs.reconstruction is not None:
            drawn[f"reconstructions-{group.kind}"] = image_grids.reconstruction_grid(
                group.pixels, group.outputs.reconstruction, value_max
            )
    examples = build_examples(groups, evaluation, 2 if len(groups) <= 4 else 1)
    drawn["verdicts"] = image_grids.verdict_grid(examples, value_max, map_threshold=detector.map_threshold)
    histogram = draw_histogram(evaluation)
    if histogram is not None:
        drawn["histogram"] = histogram
    metrics = evaluation.metrics
    if metrics["image_auroc"] is not None:
        curves = {"all anomalies": (evaluation.labels, evaluation.scores)}
        drawn["roc"] = figures.roc_curves(curves, operating_points(metrics))
    if history:
        drawn["training"] = figures.training_curve(history)
    return {name: figures.render(figure) for name, figure in drawn.items()}


def draw_histogram(evaluation: Evaluation) -> Figure | None:
    """Draw the scores of each kind with all thresholds, the one that gives the verdicts first.

    Of the normal images, those that a threshold was computed from are left out unless there are no others. Without
    normal images, the calibration images take their place; None without those, too.
    """
    decisions, method = evaluation.metrics["decisions"], evaluation.decisions.settings.method
    values = {name: decisions[name]["threshold"] for name in sorted(decisions, key=lambda name: name != method)}
    thresholds = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    labels, scores, kinds = evaluation.labels, evaluation.scores, np.array(evaluation.images.kinds)
    normal = labels == 0
    held_out = normal & evaluation.rate_mask
    reference, reference_scores = "normal", scores[held_out if held_out.any() else normal]
    if not normal.any():
        parts = evaluation.decisions.parts.values()
        reference, reference_scores = "calibration", np.concatenate([part.calibration_scores for part in parts])
    if not len(reference_scores):
        return None
    by_kind = {reference: reference_scores}
    for kind in dict.fromkeys(kinds[labels == 1].tolist()):
        by_kind[readable_kind(kind)] = scores[kinds == kind]
    return figures.score_histogram(by_kind, thresholds, reference)


def operating_points(metrics: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return each decision's measured false-alarm rate and detection rate, where both are known."""
    rates = {
        name.replace("_", " "): (row["false_alarm_rate_measured"], row["detection_rate"])
        for name, row in metrics["decisions"].items()
    }
    return {name: pair for name, pair in rates.items() if None not in pair}


def describe_metrics(metrics: dict[str, Any], reconstruction_error: bool) -> str:
    """Describe in plain sentences what a detector catches and misses.

    `reconstruction_error` tells whether its score is one, which explains some of what it misses.
    """
    sentences = [*describe_rates(metrics), *missing_metrics(metrics)]
    if metrics["image_auroc"] is None:
        return " ".join(sentences)
    areas = {readable_kind(kind): row["auroc"] for kind, row in metrics["per_class"].items()}
    weak = {kind: area for kind, area in areas.items() if area is not None and area < MIN_GOOD_AUROC}
    if not weak:
        good = f"It separates every kind of anomaly well from normal images (AUROC of {MIN_GOOD_AUROC} or more)."
        return " ".join([*sentences, good])
    listed = ", ".join(f"{kind} ({area:.2f})" for kind, area in weak.items())
    sentences.append(f"It detects these kinds of anomaly poorly (AUROC; 0.5 is chance): {listed}.")
    below_chance = ", ".join(kind for kind, area in weak.items() if area < 0.5)
    if below_chance:
        sentences.append(f"These kinds score lower than normal images (AUROC below 0.5): {below_chance}.")
    if reconstruction_error:
        sentences.append(RECONSTRUCTION_NOTE)
    return " ".join(sentences)


def describe_rates(metrics: dict[str, Any]) -> list[str]:
    """Say how many anomalous test images are caught at the guaranteed rate, and how many normal ones are flagged."""
    measured, guaranteed, rates = metrics["false_alarm_rate_measured"], metrics["guaranteed_rate"], []
    if metrics["n_anomalous"]:
        caught = format_percent(metrics["detection_rate"])
        rates.append(f"caught {caught} of {metrics['n_anomalous']:,} anomalous images")
    if measured is not None:
        rates.append(f"flagged {measured:.1%} of {metrics['n_normal_rates']:,} normal test images")
    condition = "Without a guarantee" if guaranteed is None else f"At a guaranteed false-alarm rate of {guaranteed:.2%}"
    sentences = [f"{condition}, it {' and '.join(rates)}."] if rates else []
    if metrics["detection_rate_at_99"] is not None:
        rate, count = metrics["detection_rate_at_99"], metrics["n_scores_at_99"]
        end = f"{rate:.1%}" if count >= N_REFERENCE else f"at most {rate:.1%} (an upper estimate from {count} scores)"
        sentences.append(f"With 99 calibration images, it would catch {end}.")
    if measured is None and metrics["n_normal"]:
        sentences.append(
            "Its false-alarm rate cannot be measured here, because all normal test images were used to train or "
            "calibrate the detector: keep some apart."
        )
    return sentences


def missed_kinds_table(metrics: dict[str, Any]) -> Table | None:
    """Explain why reconstruction error misses kinds of distortion; None if it misses none that can be explained."""
    rows = [
        (readable_kind(kind), f"{row['auroc']:.3f}", corruptions.describe(kind), MISS_REASONS[kind])
        for kind, row in metrics["per_class"].items()
        if row["auroc"] is not None and row["auroc"] < MIN_GOOD_AUROC and kind in MISS_REASONS
    ]
    return Table(("kind", "AUROC", "distortion", "why it is missed"), tuple(rows)) if rows else None


def remarks_table(detector: Detector) -> Table | None:
    """List the reasons for the choices of `auto`, and other remarks from training; None if there are none."""
    rows = []
    for remark in detector.manifest.remarks:
        subject, colon, finding = remark.partition(": ")
        rows.append((subject, finding) if colon else ("detector", remark))
    return Table(("subject", "finding"), tuple(rows)) if rows else None


def readable_kind(kind: str) -> str:
    """Return the name of a kind with spaces instead of underscores."""
    return kind.replace("_", " ")


def format_percent(value: float | None) -> str | None:
    """Format a rate for a table."""
    return None if value is None else f"{value:.1%}"


def format_rate_at_99(metrics: dict[str, Any]) -> str | None:
    """Format what would be caught with 99 calibration images; fewer scores overestimate it."""
    rate = metrics["detection_rate_at_99"]
    return format_percent(rate) if rate is None or metrics["n_scores_at_99"] >= N_REFERENCE else f"{rate:.1%} (at most)"


def kinds_table(metrics: dict[str, Any]) -> Table:
    """Return a row for each kind of image."""
    rows = tuple(
        (readable_kind(kind), row["n"], row["auroc"], format_percent(row["detection_rate"]))
        for kind, row in metrics["per_class"].items()
    )
    return Table(("kind", "images", "AUROC", "flagged"), rows)


def decisions_table(metrics: dict[str, Any]) -> Table:
    """Return a row for each decision method that has thresholds, with its measured rates, first the one in use."""
    decisions = sorted(metrics["decisions"].items(), key=lambda item: item[0] != metrics["method"])
    rows = tuple(
        (
            name.replace("_", " ") + (" (used for verdicts)" if name == metrics["method"] else ""),
            format_percent(row["detection_rate"]),
            f"{metrics['false_alarm_rate']:.2%}" if name == "conformal" else None,
            format_percent(row["false_alarm_rate_measured"]),
            None if row["threshold"] is None else format_score(row["threshold"]),
        )
        for name, row in decisions
        if name == metrics["method"] or any(value is not None for value in row.values())
    )
    return Table(("decision", "anomalies caught", "guaranteed rate", "normal images flagged", "threshold"), rows)


def key_figures(metrics: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the key figures as (name, value), first what is caught at the guaranteed rate."""
    flagged, caught = (
        format_percent(metrics[name]) or "not measured" for name in ("false_alarm_rate_measured", "detection_rate")
    )
    guaranteed = metrics["guaranteed_rate"]
    values = [
        ("anomalies caught", f"{caught} (no guarantee)")
        if guaranteed is None
        else ("caught at the guaranteed rate", f"{caught} (rate: {guaranteed:.2%})"),
        ("normal images flagged", flagged),
        ("caught with 99 calibration images", format_rate_at_99(metrics) or "not measured"),
        ("image AUROC", format_auroc(metrics)),
    ]
    if "pixel_auroc" in metrics:
        values.append(("pixel AUROC / AUPRO", f"{metrics['pixel_auroc']:.3f} / {metrics['aupro']:.3f}"))
    return tuple(values)


def format_auroc(metrics: dict[str, Any]) -> str:
    """Format the image AUROC with its interval."""
    if metrics["image_auroc"] is None:
        return "not measured"
    low, high = metrics["image_auroc_ci"]
    return f"{metrics['image_auroc']:.3f} ({low:.3f} to {high:.3f})"


def provenance(detector: Detector, command: str) -> tuple[tuple[str, str], ...]:
    """Return the command, seed, machine, versions and data behind a report, as (name, value)."""
    manifest = detector.manifest
    return (
        ("command", command),
        ("seed", str(manifest.training.seed)),
        ("machine", f"{platform.machine()}, {os.cpu_count()} logical processors, {platform.system()}"),
        ("runtime", detector.backend.name),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("trained on", f"{manifest.data.n_training:,} images of {manifest.data.source} ({manifest.data.normal})"),
        ("calibrated on", f"{manifest.data.n_calibration:,} images ({manifest.data.calibration_source})"),
    )


def write_evaluation_report(
    path: Path, title: str, detector: Detector, evaluation: Evaluation, images: dict[str, bytes], command: str
) -> Path:
    """Write the self-contained HTML report of an evaluation; `command` is listed as its provenance.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OddlensError: the file cannot be written.
    """
    metrics = evaluation.metrics
    missed = missed_kinds_table(metrics) if evaluation.distorted else None
    remarks = remarks_table(detector)
    rates_note = "Rates exclude images that a threshold was computed from."
    verdicts_caption = "The first test images of each kind, not a selection."
    sections = [
        Section(
            "Decisions",
            " ".join([*detector.decisions_.summary_lines(), rates_note]),
            table=decisions_table(metrics),
        ),
        *([Section("Why this detector", "Based on normal training images only.", table=remarks)] if remarks else []),
        Section("Verdicts", figure=images["verdicts"], caption=verdicts_caption),
        Section("Kinds of images", table=kinds_table(metrics)),
        *([Section("Why some kinds are missed", table=missed)] if missed else []),
        *(
            Section(heading, figure=images[name])
            for heading, name in (("Scores", "histogram"), ("Ranking", "roc"))
            if name in images
        ),
        *(
            Section(f"Reconstructions: {readable_kind(name.removeprefix('reconstructions-'))}", figure=figure)
            for name, figure in images.items()
            if name.startswith("reconstructions-")
        ),
        *([Section("Training", figure=images["training"])] if "training" in images else []),
    ]
    description = describe_metrics(metrics, detector.manifest.model.scores_reconstruction)
    summary = " ".join([description, *evaluation.lot_warnings])
    footer = provenance(detector, command)
    return write_report(path, Report(title, summary, key_figures(metrics), tuple(sections), footer))
