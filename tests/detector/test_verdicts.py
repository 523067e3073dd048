"""Verdicts: one row an image, in order."""

from __future__ import annotations

import numpy as np

from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts


def test_a_verdict_is_anomaly_where_the_label_is_1() -> None:
    scores = np.array([1.0, 3.0, 2.0])
    labels = np.array([0, 1, 0], dtype=np.int8)
    verdicts = Verdicts(("a", "b", "c"), scores, 1 / scores, np.full(3, 2.0), labels)
    assert verdicts.verdict == ["normal", "anomaly", "normal"]
    assert len(verdicts) == 3


def test_a_score_equal_to_the_threshold_is_normal(digits_detector: Detector) -> None:
    threshold = digits_detector.decision_.threshold
    scores = np.array([threshold, np.nextafter(threshold, np.inf)])
    verdicts = digits_detector.predict_from_scores(("equal", "above"), scores)
    assert verdicts.verdict == ["normal", "anomaly"]
    assert (verdicts.threshold == threshold).all()
    assert verdicts.p_value[0] > verdicts.p_value[1]


def test_no_image_has_no_verdict(digits_detector: Detector) -> None:
    verdicts = digits_detector.predict_from_scores((), np.empty(0))
    assert len(verdicts) == len(verdicts.verdict) == 0
