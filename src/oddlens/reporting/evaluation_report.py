"""What an evaluated detector shows: its pictures, and in words what it catches and what it misses."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.evaluation import corruptions
from oddlens.evaluation.evaluate import Evaluation
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import score_batches
from oddlens.reporting import figures
from oddlens.reporting.canvas import format_score
from oddlens.reporting.html import Report, Section, Table, write_report

MAX_STRIP_IMAGES = 10  # pictures in a strip of reconstructions
MIN_GOOD_AUROC = 0.9  # an AUROC below this is spoken of

REASONS = {  # why reconstruction error does not see a kind of change
    "blank": "an empty picture is the easiest of all to reconstruct, so its error is below that of any normal image",
    "dimmed": "a darker picture has smaller values and so smaller errors: dimming lowers the score as it adds oddness",
    "hole": "what is left of the picture is normal, and a missing part adds no error where nothing is drawn",
    "quarter_turn": "the parts of a turned picture (strokes, edges) are the parts of normal ones, and rebuild as well",
    "upside_down": "the parts of a turned picture (strokes, edges) are the parts of normal ones, and rebuild as well",
    "glyphs": "strange signs are made of strokes like those of normal pictures, and strokes are what was learned",
    "blur": "a smooth picture is simpler than a sharp one and rebuilds more easily",
}
SIMPLE = (
    "Reconstruction error measures how complicated a picture is more than how strange: whatever has large smooth "
    "areas is rebuilt well, whatever it shows, and a normal image with fine detail is not."
)


@dataclass(frozen=True)
class ExampleGroup:
    """Images of one kind with what the detector made of them."""

    kind: str
    index: npt.NDArray[np.intp]  # places in the evaluation
    pixels: Pixels
    outputs: Predictions


def example_groups(detector: Detector, evaluation: Evaluation, count: int) -> list[ExampleGroup]:
    """The first `count` images of each kind, normal ones first: not chosen by how well they come out."""
    kinds = np.array(evaluation.images.kinds)
    shown = []
    for kind in evaluation.kinds:
        index = np.flatnonzero(kinds == kind)[:count]
        pixels = evaluation.images.subset(index).load(detector.spec)
        (outputs,) = score_batches(detector.backend, [pixels])
        shown.append(ExampleGroup(kind, index, pixels, outputs))
    return shown


def examples(shown: Sequence[ExampleGroup], evaluation: Evaluation, each: int) -> list[figures.Example]:
    """`each` images of every kind, as rows for a picture of verdicts."""
    found, thresholds = [], evaluation.thresholds
    for group in shown:
        score, anomaly_map, reconstruction = group.outputs
        for i, place in enumerate(group.index[:each]):
            found.append(
                figures.Example(
                    pixels=group.pixels[i],
                    reconstruction=None if reconstruction is None else reconstruction[i],
                    anomaly_map=None if anomaly_map is None else anomaly_map[i],
                    mask=evaluation.images.mask(int(place)),
                    kind=group.kind.replace("_", " "),
                    score=float(score[i]),
                    threshold=float(thresholds[place]),
                    name=evaluation.images.names[place],
                    truth=1 if evaluation.labels[place] else 0,
                )
            )
    return found


def draw_figures(
    detector: Detector, evaluation: Evaluation, folder: Path, history: Sequence[dict[str, float]]
) -> dict[str, Path]:
    """Make all pictures of an evaluation in a folder; gives their paths by name."""
    shown, value_max = example_groups(detector, evaluation, MAX_STRIP_IMAGES), detector.spec.value_max
    made: dict[str, Any] = {}
    for group in shown:
        if group.outputs.reconstruction is not None:
            made[f"reconstructions-{group.kind}"] = figures.reconstructions(
                group.pixels, group.outputs.reconstruction, value_max
            )
    each = 2 if len(shown) <= 4 else 1
    made["verdicts"] = figures.verdict_rows(examples(shown, evaluation, each), value_max, level=detector.map_threshold)
    both = {name: row["threshold"] for name, row in evaluation.metrics["decisions"].items()}
    method = evaluation.decisions.settings.method
    ordered = sorted(both, key=lambda name: name != method)  # the one that gives the verdicts first
    thresholds = {name.replace("_", " "): value for name in ordered if (value := both[name]) is not None}
    labels, scores = evaluation.labels, evaluation.scores
    normal = labels == 0
    fair = normal & evaluation.in_rates
    shown_normal = scores[fair if fair.any() else normal]
    kinds = np.array(evaluation.images.kinds)
    anomalies = {kind.replace("_", " "): scores[kinds == kind] for kind in dict.fromkeys(kinds[labels == 1].tolist())}
    made["histogram"] = figures.score_histogram({"normal": shown_normal, **anomalies}, thresholds, "normal")
    made["roc"] = figures.roc({"all anomalies": (labels, scores)}, working_points(evaluation.metrics))
    if history:
        made["training"] = figures.training_curve(history)
    return {name: figures.save_figure(figure, folder / f"{name}.png") for name, figure in made.items()}


def working_points(metrics: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Each decision's measured false-alarm and detection rate, where both are known."""
    rates = {
        name.replace("_", " "): (row["false_alarm_rate_measured"], row["detection_rate"])
        for name, row in metrics["decisions"].items()
    }
    return {name: pair for name, pair in rates.items() if None not in pair}


def describe_metrics(metrics: dict[str, Any], family: str) -> str:
    """What the detector promises, catches and misses, in plain sentences."""
    asked, measured = metrics["false_alarm_rate"], metrics["false_alarm_rate_measured"]
    caught = f"caught {percent(metrics['detection_rate'])} of {metrics['n_anomalous']:,} anomalous ones"
    if measured is None:
        told = [
            f"It {caught}. How many normal images it flags cannot be measured here: all normal test images went into "
            "making the detector, so keep some apart."
        ]
    else:
        n = metrics["n_normal_rates"]
        told = [f"It flagged {measured:.1%} of {n:,} normal test images (asked: {asked:.1%}) and {caught}."]
    known = {kind: row for kind, row in metrics["per_class"].items() if row["auroc"] is not None}
    weak = {kind: row for kind, row in known.items() if row["auroc"] < MIN_GOOD_AUROC}
    if not weak:
        return " ".join(
            [*told, f"It ranks every kind of anomaly above normal images well (AUROC {MIN_GOOD_AUROC} or more)."]
        )
    listed = ", ".join(f"{kind.replace('_', ' ')} ({row['auroc']:.2f})" for kind, row in weak.items())
    told.append(f"It misses much of these kinds (AUROC; 0.5 is chance): {listed}.")
    backwards = [kind.replace("_", " ") for kind, row in weak.items() if row["auroc"] < 0.5]
    if backwards:
        told.append(f"Below chance, that is, taken for more normal than normal images: {', '.join(backwards)}.")
    if family == "autoencoder":
        told.append(SIMPLE)
    return " ".join(told)


def reasons(metrics: dict[str, Any]) -> Table | None:
    """For kinds of distortion that a reconstruction error misses: why."""
    rows = [
        (kind.replace("_", " "), f"{row['auroc']:.3f}", corruptions.describe(kind), REASONS[kind])
        for kind, row in metrics["per_class"].items()
        if row["auroc"] is not None and row["auroc"] < MIN_GOOD_AUROC and kind in REASONS
    ]
    return Table(("kind", "AUROC", "what was done", "why it is missed"), tuple(rows)) if rows else None


def remarks_table(detector: Detector) -> Table | None:
    """What `auto` chose and why, and what a detector says of itself."""
    rows = []
    for remark in detector.manifest.remarks:
        about, colon, said = remark.partition(": ")
        rows.append((about, said) if colon else ("itself", remark))
    return Table(("about", "what was found"), tuple(rows)) if rows else None


def percent(value: float | None) -> str | None:
    """A rate for a table."""
    return None if value is None else f"{value:.1%}"


def kinds_table(metrics: dict[str, Any]) -> Table:
    """A row for each kind of image."""
    rows = tuple(
        (kind.replace("_", " "), row["n"], row["auroc"], percent(row["detection_rate"]))
        for kind, row in metrics["per_class"].items()
    )
    return Table(("kind", "images", "AUROC", "flagged"), rows)


def decisions_table(metrics: dict[str, Any]) -> Table:
    """A row for each way to choose the threshold, with what it really gives."""
    rows = tuple(
        (
            name.replace("_", " ") + (" (gives the verdicts)" if name == metrics["method"] else ""),
            None if row["threshold"] is None else format_score(row["threshold"]),
            percent(row["false_alarm_rate_measured"]),
            percent(row["detection_rate"]),
        )
        for name, row in metrics["decisions"].items()
    )
    return Table(("decision", "threshold", "normal images flagged", "anomalies caught"), rows)


def cards(metrics: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The key figures."""
    low, high = metrics["image_auroc_ci"]
    flagged = percent(metrics["false_alarm_rate_measured"]) or "not measured"
    found = [
        ("image AUROC", f"{metrics['image_auroc']:.3f} ({low:.3f} to {high:.3f})"),
        ("anomalies caught", percent(metrics["detection_rate"]) or "none left"),
        ("normal images flagged", f"{flagged} (asked: {metrics['false_alarm_rate']:.1%})"),
    ]
    if "pixel_auroc" in metrics:
        found.append(("pixel AUROC / AUPRO", f"{metrics['pixel_auroc']:.3f} / {metrics['aupro']:.3f}"))
    return tuple(found)


def provenance(detector: Detector, command: str) -> tuple[tuple[str, str], ...]:
    """What made these figures: command, seed, machine, versions."""
    manifest = detector.manifest
    return (
        ("command", command),
        ("seed", str(manifest.training.seed)),
        ("machine", f"{platform.machine()}, {os.cpu_count()} logical processors, {platform.system()}"),
        ("scoring", detector.backend.name),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("trained on", f"{manifest.data.n_training:,} images of {manifest.data.source} ({manifest.data.normal})"),
        ("calibrated on", f"{manifest.data.n_calibration:,} images ({manifest.data.calibration_source})"),
    )


def write_evaluation_report(
    path: Path, title: str, detector: Detector, evaluation: Evaluation, pictures: dict[str, Path], command: str
) -> Path:
    """The HTML report of an evaluation, self-contained; `command` is what made it."""
    metrics = evaluation.metrics
    missed = reasons(metrics) if evaluation.distorted else None
    remarks = remarks_table(detector)
    sections = [
        *([Section("Why this detector", "From normal images alone.", table=remarks)] if remarks else []),
        Section(
            "Verdicts", figure=pictures["verdicts"], caption="The first test images of each kind, not a selection."
        ),
        Section("Kinds of images", table=kinds_table(metrics)),
        *([Section("Why some kinds are missed", table=missed)] if missed else []),
        Section(
            "Decisions",
            " ".join([*detector.decisions_.summary_lines(), "Rates are over images that no threshold was made from."]),
            table=decisions_table(metrics),
        ),
        Section("Scores", figure=pictures["histogram"]),
        Section("Ranking", figure=pictures["roc"]),
        *(
            Section(f"Reconstructions: {name.removeprefix('reconstructions-').replace('_', ' ')}", figure=figure)
            for name, figure in pictures.items()
            if name.startswith("reconstructions-")
        ),
        *([Section("Training", figure=pictures["training"])] if "training" in pictures else []),
    ]
    summary = describe_metrics(metrics, detector.manifest.model.family)
    return write_report(path, Report(title, summary, cards(metrics), tuple(sections), provenance(detector, command)))
