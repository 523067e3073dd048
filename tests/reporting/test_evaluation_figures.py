"""The figures of an evaluation as PNG."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import Evaluation, evaluate
from oddlens.evaluation.test_sets import build_test_set
from oddlens.reporting import evaluation_figures


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, digits: DataSet) -> Evaluation:
    return evaluate(digits_detector, build_test_set(digits, digits_detector.spec, seed=0, distort=True))


def test_all_figures_are_png(digits_detector: Detector, evaluation: Evaluation) -> None:
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    figures = evaluation_figures.draw_figures(digits_detector, evaluation, history)
    assert {"verdicts", "histogram", "roc", "training", "reconstructions-normal"} <= set(figures)
    assert all(image.startswith(b"\x89PNG") for image in figures.values())


def test_images_of_one_label_have_no_roc_curve_and_anomalies_are_compared_with_the_calibration_images(
    digits_detector: Detector, evaluation: Evaluation
) -> None:
    for label in (0, 1):
        images = evaluation.images.subset(np.flatnonzero(evaluation.labels == label)[:300])
        alone = evaluate(digits_detector, images)
        figures = evaluation_figures.draw_figures(digits_detector, alone)
        assert {"verdicts", "histogram"} <= set(figures)
        assert "roc" not in figures
        figure = evaluation_figures.draw_histogram(alone)
        assert figure is not None
        assert ("calibration" in [text.get_text() for text in figure.texts]) == bool(label)


def test_decisions_without_a_threshold_have_no_operating_point() -> None:
    decision = {"false_alarm_rate_measured": 0.02, "detection_rate": 0.4}
    unknown = {"false_alarm_rate_measured": 0.02, "detection_rate": None}
    metrics = {"decisions": {"conformal": decision, "train_percentile": unknown}}
    assert evaluation_figures.operating_points(metrics) == {"conformal": (0.02, 0.4)}


def test_examples_are_the_first_images_of_each_kind(digits_detector: Detector, evaluation: Evaluation) -> None:
    groups = evaluation_figures.example_groups(digits_detector, evaluation, 3)
    assert [group.kind for group in groups] == evaluation.kinds
    assert [len(group.index) for group in groups] == [3] * len(groups)
    examples = evaluation_figures.build_examples(groups, evaluation, 2)
    assert len(examples) == 2 * len(groups)
    assert [example.name for example in examples[:2]] == list(evaluation.images.names[:2])
    assert [example.truth for example in examples] == [0, 0] + [1] * (len(examples) - 2)
    for group in groups:
        np.testing.assert_allclose(group.outputs.anomaly_score, evaluation.scores[group.index], rtol=1e-6)


def test_the_histogram_shows_normal_images_that_no_threshold_was_computed_from(
    evaluation: Evaluation,
) -> None:
    masked = replace(evaluation, rate_mask=np.arange(len(evaluation.scores)) % 2 == 0)
    count = int((masked.rate_mask & (masked.labels == 0)).sum())
    figure = evaluation_figures.draw_histogram(masked)
    assert figure is not None
    assert f"{count:,} images" in [text.get_text() for text in figure.texts]


def test_without_normal_and_calibration_images_there_is_no_histogram(evaluation: Evaluation) -> None:
    anomalous, training = evaluation.labels == 1, evaluation.decisions.single.training_scores
    by_percentile = Decision(DecisionSettings(method="train_percentile"), np.empty(0), training)
    uncalibrated = replace(
        evaluation,
        images=evaluation.images.subset(anomalous),
        scores=evaluation.scores[anomalous],
        rate_mask=evaluation.rate_mask[anomalous],
        reconstruction_errors=None,
        decisions=GroupedDecision({UNGROUPED: by_percentile}),
    )
    assert evaluation_figures.draw_histogram(uncalibrated) is None
