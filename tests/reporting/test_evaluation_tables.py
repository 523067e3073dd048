"""Sentences and tables about an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from oddlens.evaluation import corruptions
from oddlens.reporting import evaluation_tables


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
    text = evaluation_tables.describe_metrics(table(noise=0.99, blank=0.1, quarter_turn=0.6), True)
    assert text.startswith(
        "At a guaranteed false-alarm rate of 1.23%, it caught 40.0% of 1,200 anomalous images and flagged 2.0% of "
        "5,000 normal test images. With 99 calibration images, it would catch 35.0%. "
    )
    assert "blank (0.10), quarter turn (0.60)" in text
    assert "These kinds score lower than normal images (AUROC below 0.5): blank." in text
    assert "noise" not in text
    assert text.endswith(evaluation_tables.RECONSTRUCTION_NOTE)


def test_only_reconstruction_error_is_explained() -> None:
    assert evaluation_tables.RECONSTRUCTION_NOTE not in evaluation_tables.describe_metrics(table(blank=0.1), False)


def test_a_detector_that_misses_nothing_has_no_weak_kinds() -> None:
    assert evaluation_tables.describe_metrics(table(noise=0.99), True).endswith("normal images (AUROC of 0.9 or more).")


def test_an_unknown_false_alarm_rate_is_reported_as_not_measured() -> None:
    metrics = table(noise=0.99) | {"false_alarm_rate_measured": None, "n_normal_rates": 0}
    assert "cannot be measured here" in evaluation_tables.describe_metrics(metrics, False)


def test_few_scores_make_what_would_be_caught_with_99_an_upper_estimate() -> None:
    metrics = table(noise=0.99)
    assert evaluation_tables.decisions_table(metrics).columns[1:3] == ("anomalies caught", "guaranteed rate")
    few = metrics | {"n_scores_at_99": 62}
    assert evaluation_tables.format_rate_at_99(metrics) == "35.0%"
    assert evaluation_tables.format_rate_at_99(few) == "35.0% (at most)"
    sentence = "it would catch at most 35.0% (an upper estimate from 62 scores)."
    assert sentence in evaluation_tables.describe_metrics(few, False)
    without = metrics | {"guaranteed_rate": None}
    assert evaluation_tables.describe_metrics(without, False).startswith("Without a guarantee, it caught 40.0%")


def test_reasons_are_listed_only_for_kinds_that_are_missed() -> None:
    reasons = evaluation_tables.missed_kinds_table(table(noise=0.5, blank=0.1, hole=0.95))
    assert reasons is not None
    assert [row[0] for row in reasons.rows] == ["blank"], "there is no reason for noise, and hole is detected"
    assert evaluation_tables.missed_kinds_table(table(noise=0.99)) is None


def test_every_reason_belongs_to_a_corruption() -> None:
    assert set(evaluation_tables.MISS_REASONS) <= {*corruptions.DISTORTIONS, *corruptions.PATTERNS}


def test_the_decision_that_gives_the_verdicts_comes_first() -> None:
    rows = evaluation_tables.decisions_table(table()).rows
    assert rows[0][0] == "conformal (used for verdicts)"
    assert rows[1][-1] is None


def test_a_decision_without_threshold_and_rates_has_no_row_unless_it_gives_the_verdicts() -> None:
    metrics, nothing = table(), dict.fromkeys(("threshold", "false_alarm_rate_measured", "detection_rate"))
    metrics["decisions"]["train_percentile"] = nothing
    assert [row[0] for row in evaluation_tables.decisions_table(metrics).rows] == ["conformal (used for verdicts)"]
    metrics["method"] = "train_percentile"
    assert [row[0] for row in evaluation_tables.decisions_table(metrics).rows] == [
        "train percentile (used for verdicts)", "conformal",
    ]  # fmt: skip


@pytest.mark.parametrize(("rate", "text"), [(None, None), (0.0, "0.0%"), (0.0123, "1.2%")])
def test_rates_are_formatted_as_percentages(rate: float | None, text: str | None) -> None:
    assert evaluation_tables.format_percent(rate) == text
