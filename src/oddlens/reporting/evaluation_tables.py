"""The tables and sentences that report an evaluation: what a detector catches and what it misses."""

from __future__ import annotations

from typing import Any

from oddlens.detector.detector import Detector
from oddlens.evaluation import corruptions
from oddlens.evaluation.evaluate import N_REFERENCE, missing_metrics
from oddlens.reporting.canvas import format_score
from oddlens.reporting.html import Table

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


def format_auroc(metrics: dict[str, Any]) -> str:
    """Format the image AUROC with its interval."""
    if metrics["image_auroc"] is None:
        return "not measured"
    low, high = metrics["image_auroc_ci"]
    return f"{metrics['image_auroc']:.3f} ({low:.3f} to {high:.3f})"
