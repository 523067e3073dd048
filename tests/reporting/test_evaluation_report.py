"""What is said of a result: in words, in tables, and never more than was measured."""

from __future__ import annotations

from typing import Any

import pytest

from oddlens.evaluation import corruptions
from oddlens.reporting import evaluation_report


def table(**kinds: float) -> dict[str, Any]:
    rows = {kind: {"auroc": auroc, "detection_rate": 0.5, "n": 10} for kind, auroc in kinds.items()}
    decision = {"threshold": 0.5, "false_alarm_rate_measured": 0.02, "detection_rate": 0.4}
    unknown = {**decision, "threshold": None, "detection_rate": None}
    return {
        "image_auroc": 0.8, "image_auroc_ci": [0.7, 0.9], "false_alarm_rate": 0.01, "method": "conformal",
        "false_alarm_rate_measured": 0.02, "detection_rate": 0.4, "n_normal_rates": 5000, "n_anomalous": 1200,
        "decisions": {"conformal": decision, "train_percentile": unknown},
        "per_class": {"normal": {"auroc": None, "detection_rate": 0.02, "n": 5000}, **rows},
    }  # fmt: skip


def test_the_words_name_what_is_missed_and_what_is_below_chance() -> None:
    words = evaluation_report.describe_metrics(table(noise=0.99, blank=0.1, quarter_turn=0.6), "autoencoder")
    assert "flagged 2.0% of 5,000 normal test images (asked: 1.0%) and caught 40.0% of 1,200 anomalous ones" in words
    assert "blank (0.10), quarter turn (0.60)" in words
    assert "Below chance, that is, taken for more normal than normal images: blank." in words
    assert "noise" not in words
    assert "Reconstruction error measures how complicated" in words


def test_a_detector_that_misses_nothing_is_not_blamed() -> None:
    assert evaluation_report.describe_metrics(table(noise=0.99), "autoencoder").endswith("well (AUROC 0.9 or more).")


def test_reasons_are_given_only_for_kinds_that_are_missed() -> None:
    reasons = evaluation_report.reasons(table(noise=0.5, blank=0.1, hole=0.95))
    assert reasons is not None
    assert [row[0] for row in reasons.rows] == ["blank"], "noise has no reason on record, hole is seen"
    assert evaluation_report.reasons(table(noise=0.99)) is None


def test_every_reason_belongs_to_a_distortion_that_exists() -> None:
    assert set(evaluation_report.REASONS) <= {*corruptions.DISTORTIONS, *corruptions.PATTERNS}


def test_decisions_that_could_not_be_made_are_shown_as_unknown() -> None:
    rows = evaluation_report.decisions_table(table()).rows
    assert rows[0][0] == "conformal (gives the verdicts)"
    assert rows[1][1] is None
    assert evaluation_report.working_points(table()) == {"conformal": (0.02, 0.4)}


@pytest.mark.parametrize(("rate", "shown"), [(None, None), (0.0, "0.0%"), (0.0123, "1.2%")])
def test_rates_are_shown_in_percent(rate: float | None, shown: str | None) -> None:
    assert evaluation_report.percent(rate) == shown
