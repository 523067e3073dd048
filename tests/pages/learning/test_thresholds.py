from __future__ import annotations

import math

import pytest
from photo_folders import Desk

from oddlens.detector.detector import Detector
from oddlens.pages.learning import results
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.thresholds import round_up, threshold_choices


def test_choices_are_what_the_detector_would_decide(fitted_desk: tuple[Desk, Job]) -> None:
    _, job = fitted_desk
    result = results.result_of(job)
    detector = Detector.load(results.for_deployment(job), device="cpu", threads=1)
    decision = detector.manifest.decision
    choices = threshold_choices(detector, result["images"])
    assert detector.manifest.decision == decision, "the detector is as before"
    assert [row["rate"] for row in choices] == sorted({row["rate"] for row in choices})
    for name in ("n_caught", "n_stopped"):
        counts = [row[name] for row in choices]
        assert counts == sorted(counts), "a higher rate stops more"
    lowest = detector.decision_.calibration.min_rate(None)
    assert lowest <= choices[0]["rate"] < 1.01 * lowest
    assert result["false_alarm_rate"] in [row["rate"] for row in choices]
    last = choices[-1]
    moved = results.result_of(job, results.retune(job, last["rate"]))
    assert moved["threshold"] == pytest.approx(last["threshold"])
    counted = [image for image in moved["images"] if image["counts"]]
    flagged = [image["label"] for image in counted if image["verdict"] == "anomaly"]
    assert (flagged.count(1), flagged.count(0)) == (last["n_caught"], last["n_stopped"])
    assert math.isfinite(last["threshold"])


@pytest.mark.parametrize(("rate", "rounded"), [(1 / 3, 0.3334), (0.01, 0.01), (0.5, 0.5), (1 / 101, 0.009901)])
def test_rates_are_rounded_to_what_can_still_be_guaranteed(rate: float, rounded: float) -> None:
    assert round_up(rate) == rounded >= rate
