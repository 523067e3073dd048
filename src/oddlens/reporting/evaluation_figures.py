"""The figures of an evaluation as PNG: examples with their verdicts, the scores, ROC, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import Evaluation
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import score_batches
from oddlens.reporting import figures, image_grids
from oddlens.reporting.evaluation_tables import describe_rates, readable_kind
from oddlens.reporting.gallery import gallery

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_STRIP_IMAGES = 10  # images in a figure of reconstructions
MAX_GALLERY_IMAGES = 12  # images in the figure to show around, if there are so many kinds
GALLERY_IMAGES = 6  # the same, where there are fewer kinds


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
