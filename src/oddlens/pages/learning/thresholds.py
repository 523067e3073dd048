"""Thresholds to choose from: what a detector would decide at other false-alarm rates, without fitting it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError

RATES = (  # that people choose from
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
    0.5,
)  # fmt: skip
SAME = 0.01  # share by which two rates differ that are the same for people
DIGITS = 4  # significant digits of the lowest rate, rounded up so that it can be guaranteed


def threshold_choices(detector: Detector, images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rates that the calibration images can guarantee, ascending, with what would be decided at each.

    `images` are those of a result. Of the images that a threshold is not computed from, `n_caught` of `n_defects` and
    `n_stopped` of `n_good` are above the threshold.

    Raises:
        SettingsError: the detector has no calibration that rates could be chosen of.
    """
    present = detector.manifest.decision
    own, lowest = (
        detector.decisions_.false_alarm_rate,
        round_up(detector.decision_.calibration.min_rate(present.confidence)),
    )
    others = (rate for rate in (lowest, *RATES) if rate >= lowest and not math.isclose(rate, own, rel_tol=SAME))
    rates = sorted({own, *others})
    choices = [choice(detector, rate, images) for rate in rates]
    detector.set_decision(present)
    return [row for row in choices if row is not None]


def choice(detector: Detector, rate: float, images: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What would be decided at a rate; None where it cannot be guaranteed, or no image could be stopped."""
    settings = detector.manifest.decision.model_copy(update={"method": "conformal", "false_alarm_rate": rate})
    try:
        detector.set_decision(settings)
    except CalibrationError:
        return None
    threshold = detector.decision_.threshold
    if not math.isfinite(threshold):
        return None
    counted = [image for image in images if image["counts"]]
    good = [image["score"] > threshold for image in counted if image["label"] == 0]
    defects = [image["score"] > threshold for image in counted if image["label"] == 1]
    return {
        "rate": rate,
        "threshold": threshold,
        "n_good": len(good),
        "n_stopped": sum(good),
        "n_defects": len(defects),
        "n_caught": sum(defects),
    }


def round_up(rate: float) -> float:
    """A rate with few digits that is not below the given one.

    >>> round_up(1 / 31)
    0.03226
    """
    unit = 10.0 ** (math.floor(math.log10(rate)) - DIGITS + 1)
    return float(f"{math.ceil(rate / unit - 1e-9) * unit:.{DIGITS}g}")
