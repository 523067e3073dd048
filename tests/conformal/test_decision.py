"""Decisions: verdicts, thresholds and what they promise, of awkward scores too."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import min_false_alarm_rate, p_values
from oddlens.errors import CalibrationError, StateError

NONE: npt.NDArray[np.float64] = np.empty(0)

unhurried = settings(deadline=None)  # this machine may be busy
rates = st.integers(1, 9_999).map(lambda number: number / 10_000)  # 0.0001 ... 0.9999, written with four digits
confidences = st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
# Few distinct values, so that ties and infinities are the rule rather than the exception.
tied_scores = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf]), min_size=1, max_size=60)
continuous_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def decision(
    calibration: npt.ArrayLike = NONE,
    training: npt.ArrayLike = NONE,
    rate: float | None = None,
    confidence: float | None = None,
    percentile: float | None = None,
) -> Decision:
    chosen = DecisionSettings(
        method="conformal" if percentile is None else "train_percentile",
        false_alarm_rate=rate,
        confidence=confidence,
        train_percentile=99.0 if percentile is None else percentile,
    )
    return Decision(chosen, np.asarray(calibration, float), np.asarray(training, float))


@given(tied_scores | continuous_scores, tied_scores | continuous_scores, rates)
@unhurried
def test_a_p_value_at_most_the_rate_is_the_same_as_a_score_above_the_threshold(
    calibration: list[float], scores: list[float], rate: float
) -> None:
    if rate < min_false_alarm_rate(len(calibration)):
        assert (p_values(calibration, scores) > rate).all()
        return
    chosen = decision(calibration, rate=rate)
    asked = calibration + scores  # among them scores that equal the threshold
    assert chosen.labels(asked).tolist() == (chosen.p_values(asked) <= rate).astype(int).tolist()


# Verdicts


def test_a_score_equal_to_the_threshold_is_normal() -> None:
    chosen = decision(np.arange(1, 100), rate=0.01)
    assert chosen.threshold == 99
    labels = chosen.labels([98.0, 99.0, np.nextafter(99.0, 100.0), math.inf])
    assert labels.dtype == np.int8
    assert labels.tolist() == [0, 0, 1, 1]


def test_tied_calibration_scores_never_flag_more_than_asked() -> None:
    calibration = np.repeat([1.0, 2.0, 3.0], [80, 10, 9])
    chosen = decision(calibration, rate=0.05)
    assert chosen.threshold == 3.0  # the fifth largest of the hundred places is still a 3
    assert chosen.labels(calibration).sum() == 0
    assert decision(calibration, rate=0.10).threshold == 2.0


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(1, 1 / 2, 1), (50, 1 / 51, 50), (98, 1 / 99, 98), (99, 0.01, 99), (5_000, 0.01, 4_951)]
)
def test_without_a_rate_it_is_one_percent_or_the_smallest_that_can_be_promised(n: int, rate: float, rank: int) -> None:
    chosen = decision(np.arange(1, n + 1))
    assert chosen.false_alarm_rate == pytest.approx(rate, rel=1e-12)
    assert chosen.threshold == rank


def test_without_a_rate_confidence_counts_in_what_can_be_promised() -> None:
    assert decision(np.arange(298), confidence=0.95).false_alarm_rate == pytest.approx(1 - 0.05 ** (1 / 298))
    assert decision(np.arange(299), confidence=0.95).false_alarm_rate == 0.01


def test_conformal_without_calibration_images_names_the_missing_step() -> None:
    chosen = decision(training=np.arange(10))
    for ask in (
        lambda: chosen.threshold,
        lambda: chosen.false_alarm_rate,
        lambda: chosen.labels([1.0]),
        chosen.promise,
    ):
        with pytest.raises(StateError, match="calibrate"):
            ask()
    assert chosen.conformal_threshold is None
    assert np.isnan(chosen.p_values([0.0, 1.0])).all()


def test_train_percentile_is_numpys_and_needs_no_calibration() -> None:
    training = np.random.default_rng(0).normal(size=731)
    chosen = decision(training=training, percentile=98.5)
    assert chosen.threshold == np.percentile(training, 98.5)
    assert chosen.percentile_threshold == chosen.threshold
    assert chosen.conformal_threshold is None
    assert chosen.labels(training).sum() == (training > np.percentile(training, 98.5)).sum() == 11
    assert np.isnan(chosen.p_values(training)).all()
    assert chosen.false_alarm_rate == 0.015


def test_train_percentile_without_training_scores_says_so() -> None:
    chosen = decision(np.arange(99), percentile=99.0)
    assert chosen.percentile_threshold is None
    with pytest.raises(StateError, match="training scores"):
        _ = chosen.threshold


def test_both_methods_are_computed_whichever_decides() -> None:
    calibration, training = np.arange(99.0), np.arange(50.0)
    for percentile in (None, 99.0):
        chosen = decision(calibration, training, rate=0.01, percentile=percentile)
        assert chosen.conformal_threshold == 98.0
        assert chosen.percentile_threshold == np.percentile(training, 99.0)
        assert chosen.threshold == (98.0 if percentile is None else np.percentile(training, 99.0))


def test_a_rate_that_cannot_be_promised_stops_conformal_but_not_the_percentile() -> None:
    chosen = decision(np.arange(50), np.arange(50), rate=0.01, percentile=99.0)
    assert chosen.conformal_threshold is None
    assert chosen.threshold == np.percentile(np.arange(50), 99.0)


# Awkward scores


def test_nan_scores_are_refused_everywhere() -> None:
    bad = [1.0, math.nan, 2.0]
    chosen = decision(np.arange(99), rate=0.01)
    for ask in (
        lambda: decision(calibration=bad),
        lambda: decision(training=bad),
        lambda: chosen.labels(bad),
        lambda: chosen.p_values(bad),
        lambda: decision().p_values(bad),
        lambda: p_values(bad, [1.0]),
    ):
        with pytest.raises(CalibrationError, match="score 1 of 3 is NaN"):
            ask()


def test_infinite_calibration_scores_sort_last_and_may_end_all_flagging() -> None:
    scores = np.r_[np.arange(198.0), math.inf]
    spared = decision(scores[::-1], rate=0.01)
    assert spared.threshold == 197.0  # the second largest: one infinite image is within the promise
    assert spared.labels([math.inf]).tolist() == [1]
    stuck = decision(np.r_[scores[:197], math.inf, math.inf], rate=0.01)
    assert stuck.threshold == math.inf
    assert stuck.labels([math.inf, 1e308]).tolist() == [0, 0]
    assert stuck.promise().startswith("No image can be flagged")


@pytest.mark.parametrize(("infinite", "threshold"), [(1, 99.0), (2, math.inf), (3, math.inf)])
def test_infinite_training_scores_give_no_nan_percentile(infinite: int, threshold: float) -> None:
    training = np.r_[np.arange(101.0 - infinite), [math.inf] * infinite]
    assert decision(training=training, percentile=99.0).threshold == threshold


def test_a_decision_keeps_sorted_read_only_copies() -> None:
    mine = np.array([3.0, 1.0, 2.0])
    chosen = decision(mine, mine)
    mine[0] = 100.0
    assert chosen.calibration_scores.tolist() == [1.0, 2.0, 3.0]
    assert chosen.training_scores.tolist() == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        chosen.calibration_scores[0] = 0.0


def test_float32_scores_are_compared_with_the_float32_scores_they_came_from() -> None:
    scores = np.random.default_rng(1).random(99).astype(np.float32)
    assert decision(scores, rate=0.01).labels(scores).sum() == 0


# Sentences


def test_the_promise_says_what_by_how_many_and_how_far_the_realised_rate_may_lie() -> None:
    said = decision(np.arange(999), rate=0.01).promise()
    assert said.startswith("At most 1% of normal images are flagged, on average")
    assert "999 held-out normal images" in said
    low, high = stats.beta.interval(0.95, 10, 990)
    assert f"between {low:.3%} and {high:.2%} in 95%" in said


def test_the_promise_names_its_confidence() -> None:
    assert "At most 1% of normal images are flagged, with 95% confidence" in (
        decision(np.arange(299), rate=0.01, confidence=0.95).promise()
    )


def test_the_promise_says_when_the_rate_is_larger_than_the_usual_one_percent() -> None:
    assert decision(np.arange(50)).promise().startswith("At most 2.0% (the smallest that can be promised) of normal")
    assert "smallest" not in decision(np.arange(99)).promise()


def test_the_training_percentile_promises_nothing_and_shows_what_it_gives() -> None:
    training = np.arange(101.0)
    assert "promises nothing" in decision(training=training, percentile=99.0).promise()
    shown = decision(np.arange(200.0), training, percentile=99.0).promise()
    assert shown.endswith("promises nothing; it flags 50.0% of 200 held-out normal images.")
