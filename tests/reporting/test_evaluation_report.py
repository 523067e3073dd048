"""Sentences and tables about an evaluation."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector.detector import Detector
from oddlens.evaluation import corruptions
from oddlens.evaluation.evaluate import Evaluation, evaluate
from oddlens.evaluation.test_sets import build_test_set
from oddlens.reporting import evaluation_report


def table(**kinds: float) -> dict[str, Any]:
    rows = {kind: {"auroc": auroc, "detection_rate": 0.5, "n": 10} for kind, auroc in kinds.items()}
    decision = {"threshold": 0.5, "false_alarm_rate_measured": 0.02, "detection_rate": 0.4}
    unknown = {**decision, "threshold": None, "detection_rate": None}
    return {
        "image_auroc": 0.8, "image_auroc_ci": [0.7, 0.9], "false_alarm_rate": 0.01, "method": "conformal",
        "false_alarm_rate_measured": 0.02, "detection_rate": 0.4, "n_normal_rates": 5000, "n_anomalous": 1200,
        "n_normal": 5000, "n_left_out_trained": 0,
        "guaranteed_rate": 0.0123, "detection_rate_at_99": 0.35, "n_scores_at_99": 120,
        "decisions": {"conformal": decision, "train_percentile": unknown},
        "per_class": {"normal": {"auroc": None, "detection_rate": 0.02, "n": 5000}, **rows},
    }  # fmt: skip


def test_the_description_names_weak_kinds_and_those_below_chance() -> None:
    text = evaluation_report.describe_metrics(table(noise=0.99, blank=0.1, quarter_turn=0.6), True)
    assert text.startswith(
        "At a guaranteed false-alarm rate of 1.23%, it caught 40.0% of 1,200 anomalous images and flagged 2.0% of "
        "5,000 normal test images. With 99 calibration images, it would catch 35.0%. "
    )
    assert "blank (0.10), quarter turn (0.60)" in text
    assert "These kinds score lower than normal images (AUROC below 0.5): blank." in text
    assert "noise" not in text
    assert text.endswith(evaluation_report.RECONSTRUCTION_NOTE)


def test_only_reconstruction_error_is_explained() -> None:
    assert evaluation_report.RECONSTRUCTION_NOTE not in evaluation_report.describe_metrics(table(blank=0.1), False)


def test_a_detector_that_misses_nothing_has_no_weak_kinds() -> None:
    assert evaluation_report.describe_metrics(table(noise=0.99), True).endswith("normal images (AUROC of 0.9 or more).")


def test_an_unknown_false_alarm_rate_is_reported_as_not_measured() -> None:
    metrics = table(noise=0.99) | {"false_alarm_rate_measured": None, "n_normal_rates": 0}
    assert "cannot be measured here" in evaluation_report.describe_metrics(metrics, False)
    assert dict(evaluation_report.key_figures(metrics))["normal images flagged"] == "not measured"


def test_reports_begin_with_what_is_caught_at_the_guaranteed_rate() -> None:
    metrics = table(noise=0.99)
    assert evaluation_report.key_figures(metrics)[:3] == (
        ("caught at the guaranteed rate", "40.0% (rate: 1.23%)"),
        ("normal images flagged", "2.0%"),
        ("caught with 99 calibration images", "35.0%"),
    )
    assert evaluation_report.decisions_table(metrics).columns[1:3] == ("anomalies caught", "guaranteed rate")
    few = metrics | {"n_scores_at_99": 62}
    assert dict(evaluation_report.key_figures(few))["caught with 99 calibration images"] == ("35.0% (at most)")
    sentence = "it would catch at most 35.0% (an upper estimate from 62 scores)."
    assert sentence in evaluation_report.describe_metrics(few, False)
    without = metrics | {"guaranteed_rate": None}
    assert evaluation_report.key_figures(without)[0] == ("anomalies caught", "40.0% (no guarantee)")
    assert evaluation_report.describe_metrics(without, False).startswith("Without a guarantee, it caught 40.0%")


def test_reasons_are_listed_only_for_kinds_that_are_missed() -> None:
    reasons = evaluation_report.missed_kinds_table(table(noise=0.5, blank=0.1, hole=0.95))
    assert reasons is not None
    assert [row[0] for row in reasons.rows] == ["blank"], "there is no reason for noise, and hole is detected"
    assert evaluation_report.missed_kinds_table(table(noise=0.99)) is None


def test_every_reason_belongs_to_a_corruption() -> None:
    assert set(evaluation_report.MISS_REASONS) <= {*corruptions.DISTORTIONS, *corruptions.PATTERNS}


def test_decisions_without_a_threshold_have_no_operating_point() -> None:
    rows = evaluation_report.decisions_table(table()).rows
    assert rows[0][0] == "conformal (used for verdicts)"
    assert rows[1][-1] is None
    assert evaluation_report.operating_points(table()) == {"conformal": (0.02, 0.4)}


def test_a_decision_without_threshold_and_rates_has_no_row_unless_it_gives_the_verdicts() -> None:
    metrics, nothing = table(), dict.fromkeys(("threshold", "false_alarm_rate_measured", "detection_rate"))
    metrics["decisions"]["train_percentile"] = nothing
    assert [row[0] for row in evaluation_report.decisions_table(metrics).rows] == ["conformal (used for verdicts)"]
    metrics["method"] = "train_percentile"
    assert [row[0] for row in evaluation_report.decisions_table(metrics).rows] == [
        "train percentile (used for verdicts)", "conformal",
    ]  # fmt: skip


@pytest.mark.parametrize(("rate", "text"), [(None, None), (0.0, "0.0%"), (0.0123, "1.2%")])
def test_rates_are_formatted_as_percentages(rate: float | None, text: str | None) -> None:
    assert evaluation_report.format_percent(rate) == text


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, digits: DataSet) -> Evaluation:
    return evaluate(digits_detector, build_test_set(digits, digits_detector.spec, seed=0, distort=True))


def test_the_report_embeds_all_figures_with_the_description_and_provenance(
    digits_detector: Detector, evaluation: Evaluation, tmp_path: Path
) -> None:
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    figures = evaluation_report.draw_figures(digits_detector, evaluation, history)
    assert {"verdicts", "histogram", "roc", "training", "reconstructions-normal"} <= set(figures)
    assert all(image.startswith(b"\x89PNG") for image in figures.values())
    path = tmp_path / "report.html"
    evaluation_report.write_evaluation_report(
        path, "Digits", digits_detector, evaluation, figures, "oddlens eval <digits>"
    )
    page = html.unescape(path.read_text())
    assert page.count("data:image/png;base64,") == len(figures)
    assert list(tmp_path.iterdir()) == [path]
    assert evaluation_report.describe_metrics(evaluation.metrics, True) in page
    assert "oddlens eval <digits>" in page
    assert "Reconstructions: quarter turn" in page
    assert "Why some kinds are missed" in page


def test_examples_are_the_first_images_of_each_kind(digits_detector: Detector, evaluation: Evaluation) -> None:
    groups = evaluation_report.example_groups(digits_detector, evaluation, 3)
    assert [group.kind for group in groups] == evaluation.kinds
    assert [len(group.index) for group in groups] == [3] * len(groups)
    examples = evaluation_report.build_examples(groups, evaluation, 2)
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
    figure = evaluation_report.draw_histogram(masked)
    assert figure is not None
    assert f"{count:,} images" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("label", [0, 1])
def test_a_test_set_of_one_label_is_reported_without_what_it_cannot_give(
    label: int, digits_detector: Detector, digits: DataSet, tmp_path: Path
) -> None:
    both = build_test_set(digits, digits_detector.spec, seed=0, distort=True)
    images = both.subset(np.flatnonzero(both.labels == label)[:300])
    evaluation = evaluate(digits_detector, images)
    figures = evaluation_report.draw_figures(digits_detector, evaluation)
    assert {"verdicts", "histogram"} <= set(figures)
    assert "roc" not in figures
    path = tmp_path / "report.html"
    evaluation_report.write_evaluation_report(path, "Digits", digits_detector, evaluation, figures, "")
    page = html.unescape(path.read_text())
    measured, missing = ("normal test images. ", "no detection rate, AUROC or average precision")
    if label:
        measured, missing = ("of 300 anomalous images.", "no false-alarm rate, AUROC or average precision")
        figure = evaluation_report.draw_histogram(evaluation)
        assert figure is not None
        assert "calibration" in [text.get_text() for text in figure.texts]
    assert measured in page
    assert missing in page
    assert "not measured" in page
    assert "Ranking" not in page
    for section in (evaluation_report.kinds_table, evaluation_report.decisions_table):
        assert section(evaluation.metrics).rows


def test_the_report_says_that_a_lot_has_shifted(digits_detector: Detector, digits: DataSet, tmp_path: Path) -> None:
    pixels = digits.test.load(digits_detector.spec)[:60]
    for name, images in (("same", pixels), ("negative", 255 - pixels)):
        evaluation = evaluate(digits_detector, ImageSet.from_array(images))
        figures = evaluation_report.draw_figures(digits_detector, evaluation)
        path = tmp_path / f"{name}.html"
        evaluation_report.write_evaluation_report(path, "Digits", digits_detector, evaluation, figures, "")
        page = html.unescape(path.read_text())
        assert page.count("differ from the calibration images as a whole") == (name == "negative")
        assert all(line in page for line in evaluation.lot_warnings)


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
    assert evaluation_report.draw_histogram(uncalibrated) is None
