"""Decisions: labels, thresholds and guarantees, with ties, infinities and NaN too."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import benjamini_hochberg_rank, min_false_alarm_rate, min_rejections, p_values
from oddlens.errors import CalibrationError, StateError

NONE: npt.NDArray[np.float64] = np.empty(0)

unhurried = hypothesis_settings(deadline=None)  # the machine may be busy
rates = st.integers(1, 9_999).map(lambda number: number / 10_000)  # 0.0001 ... 0.9999, written with four digits
confidences = st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
# Few distinct values, so that ties and infinities are common.
tied_scores = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf]), min_size=1, max_size=60)
continuous_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def decision(
    calibration: npt.ArrayLike = NONE,
    training: npt.ArrayLike = NONE,
    rate: float | None = None,
    confidence: float | None = None,
    percentile: float | None = None,
) -> Decision:
    settings = DecisionSettings(
        method="conformal" if percentile is None else "train_percentile",
        false_alarm_rate=rate,
        confidence=confidence,
        train_percentile=99.0 if percentile is None else percentile,
    )
    return Decision(settings, np.asarray(calibration, float), np.asarray(training, float))


@given(tied_scores | continuous_scores, tied_scores | continuous_scores, rates)
@unhurried
def test_scores_are_above_the_threshold_exactly_if_their_p_value_is_at_most_the_rate(
    calibration: list[float], scores: list[float], rate: float
) -> None:
    if rate < min_false_alarm_rate(len(calibration)):
        assert (p_values(calibration, scores) > rate).all()
        return
    subject = decision(calibration, rate=rate)
    all_scores = calibration + scores  # including scores that equal the threshold
    assert subject.labels(all_scores).tolist() == (subject.p_values(all_scores) <= rate).astype(int).tolist()


# Labels and thresholds


def test_a_score_equal_to_the_threshold_is_normal() -> None:
    subject = decision(np.arange(1, 100), rate=0.01)
    assert subject.threshold == 99
    labels = subject.labels([98.0, 99.0, np.nextafter(99.0, 100.0), math.inf])
    assert labels.dtype == np.int8
    assert labels.tolist() == [0, 0, 1, 1]


def test_tied_calibration_scores_never_flag_more_than_the_rate() -> None:
    calibration = np.repeat([1.0, 2.0, 3.0], [80, 10, 9])
    subject = decision(calibration, rate=0.05)
    assert subject.threshold == 3.0  # the fifth largest score is still a 3
    assert subject.labels(calibration).sum() == 0
    assert decision(calibration, rate=0.10).threshold == 2.0


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(1, 1 / 2, 1), (50, 1 / 51, 50), (98, 1 / 99, 98), (99, 0.01, 99), (5_000, 0.01, 4_951)]
)
def test_default_rate_is_one_percent_or_the_lowest_that_can_be_guaranteed(n: int, rate: float, rank: int) -> None:
    subject = decision(np.arange(1, n + 1))
    assert subject.false_alarm_rate == pytest.approx(rate, rel=1e-12)
    assert subject.threshold == rank


def test_default_rate_depends_on_the_confidence() -> None:
    assert decision(np.arange(298), confidence=0.95).false_alarm_rate == pytest.approx(1 - 0.05 ** (1 / 298))
    assert decision(np.arange(299), confidence=0.95).false_alarm_rate == 0.01


def test_conformal_decision_without_calibration_images_names_the_missing_step() -> None:
    subject = decision(training=np.arange(10))
    for call in (
        lambda: subject.threshold,
        lambda: subject.false_alarm_rate,
        lambda: subject.labels([1.0]),
        subject.promise,
    ):
        with pytest.raises(StateError, match="calibrate"):
            call()
    assert subject.conformal_threshold is None
    assert np.isnan(subject.p_values([0.0, 1.0])).all()


def test_train_percentile_is_that_of_numpy_and_needs_no_calibration() -> None:
    training = np.random.default_rng(0).normal(size=731)
    subject = decision(training=training, percentile=98.5)
    assert subject.threshold == np.percentile(training, 98.5)
    assert subject.percentile_threshold == subject.threshold
    assert subject.conformal_threshold is None
    assert subject.labels(training).sum() == (training > np.percentile(training, 98.5)).sum() == 11
    assert np.isnan(subject.p_values(training)).all()
    assert subject.false_alarm_rate == 0.015


def test_train_percentile_without_training_scores_is_refused() -> None:
    subject = decision(np.arange(99), percentile=99.0)
    assert subject.percentile_threshold is None
    with pytest.raises(StateError, match="training scores"):
        _ = subject.threshold


def test_thresholds_of_both_methods_are_available() -> None:
    calibration, training = np.arange(99.0), np.arange(50.0)
    for percentile in (None, 99.0):
        subject = decision(calibration, training, rate=0.01, percentile=percentile)
        assert subject.conformal_threshold == 98.0
        assert subject.percentile_threshold == np.percentile(training, 99.0)
        assert subject.threshold == (98.0 if percentile is None else np.percentile(training, 99.0))


def test_a_rate_that_cannot_be_guaranteed_affects_only_the_conformal_threshold() -> None:
    subject = decision(np.arange(50), np.arange(50), rate=0.01, percentile=99.0)
    assert subject.conformal_threshold is None
    assert subject.threshold == np.percentile(np.arange(50), 99.0)


# NaN, infinite and float32 scores


def test_nan_scores_are_refused_everywhere() -> None:
    bad = [1.0, math.nan, 2.0]
    subject = decision(np.arange(99), rate=0.01)
    for call in (
        lambda: decision(calibration=bad),
        lambda: decision(training=bad),
        lambda: subject.labels(bad),
        lambda: subject.p_values(bad),
        lambda: decision().p_values(bad),
        lambda: p_values(bad, [1.0]),
    ):
        with pytest.raises(CalibrationError, match="score 1 of 3 is NaN"):
            call()


def test_infinite_calibration_scores_sort_last_and_can_prevent_all_flagging() -> None:
    scores = np.r_[np.arange(198.0), math.inf]
    one_infinite = decision(scores[::-1], rate=0.01)
    assert one_infinite.threshold == 197.0  # the second largest: one infinite score stays above the threshold
    assert one_infinite.labels([math.inf]).tolist() == [1]
    two_infinite = decision(np.r_[scores[:197], math.inf, math.inf], rate=0.01)
    assert two_infinite.threshold == math.inf
    assert two_infinite.labels([math.inf, 1e308]).tolist() == [0, 0]
    assert two_infinite.promise().startswith("No image can be flagged")


@pytest.mark.parametrize(("infinite", "threshold"), [(1, 99.0), (2, math.inf), (3, math.inf)])
def test_infinite_training_scores_give_no_nan_percentile(infinite: int, threshold: float) -> None:
    training = np.r_[np.arange(101.0 - infinite), [math.inf] * infinite]
    assert decision(training=training, percentile=99.0).threshold == threshold


def test_a_decision_stores_sorted_read_only_copies() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    subject = decision(scores, scores)
    scores[0] = 100.0
    assert subject.calibration_scores.tolist() == [1.0, 2.0, 3.0]
    assert subject.training_scores.tolist() == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        subject.calibration_scores[0] = 0.0


def test_float32_scores_compare_equal_to_their_own_calibration_scores() -> None:
    scores = np.random.default_rng(1).random(99).astype(np.float32)
    assert decision(scores, rate=0.01).labels(scores).sum() == 0


# False discovery rate


def test_scores_above_the_discovery_threshold_are_those_with_accepted_ranks(rng: np.random.Generator) -> None:
    for _ in range(100):
        calibration = rng.integers(0, 12, 40).astype(float)
        scores = rng.integers(5, 18, 30).astype(float)
        subject = decision(calibration)
        max_rank = benjamini_hochberg_rank(subject.ranks(scores), 40, 0.2)
        flagged = scores > subject.discovery_threshold(scores, 0.2)
        assert np.array_equal(flagged, subject.ranks(scores) <= max_rank)


def test_discovery_threshold_bounds_the_share_of_normal_images_among_the_flagged(rng: np.random.Generator) -> None:
    shares = []
    for _ in range(300):
        scores = np.concatenate([rng.normal(size=190), rng.normal(4, 1, 10)])
        flagged = scores > decision(rng.normal(size=999)).discovery_threshold(scores, 0.1)
        shares.append(flagged[:190].sum() / max(1, flagged.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > 0.04  # not by flagging nothing


def test_too_few_calibration_images_flag_nothing_and_min_rejections_is_exact(rng: np.random.Generator) -> None:
    scores = np.full(100, 9.0)
    assert min_rejections(100, 18, 0.05) > 100
    assert decision(rng.normal(size=18)).discovery_threshold(scores, 0.05) == np.inf
    assert min_rejections(100, 19, 0.05) == 100
    assert (scores > decision(rng.normal(size=19)).discovery_threshold(scores, 0.05)).all()
    for n, rejections in ((199, 10), (999, 2)):
        assert min_rejections(100, n, 0.05) == rejections
        calibration = rng.normal(size=n)
        for count, any_flagged in ((rejections, True), (rejections - 1, False)):
            mixed = np.concatenate([np.full(count, 9.0), np.full(100 - count, -9.0)])
            assert (mixed > decision(calibration).discovery_threshold(mixed, 0.05)).any() == any_flagged


def test_discovery_threshold_without_calibration_images_is_refused() -> None:
    with pytest.raises(StateError, match="run calibrate"):
        decision().discovery_threshold(np.ones(3), 0.05)


def test_fdr_warning_names_the_number_of_calibration_images_that_it_takes() -> None:
    warning = decision(np.arange(18.0)).fdr_warning(100, 0.05)
    assert warning is not None
    assert "18 calibration images are too few" in warning
    assert "at least 19" in warning
    warning = decision(np.arange(199.0)).fdr_warning(100, 0.05)
    assert warning is not None
    assert "at least 10 of them" in warning
    assert "at least 1999 images" in warning
    assert decision(np.arange(1999.0)).fdr_warning(100, 0.05) is None


# Sentences


def test_the_guarantee_states_rate_calibration_images_and_realized_rate() -> None:
    sentence = decision(np.arange(999), rate=0.01).promise()
    assert sentence.startswith("At most 1% of normal images are flagged, on average over calibration sets")
    assert "provided they resemble the 999 held-out normal images" in sentence
    low, high = stats.beta.interval(0.95, 10, 990)
    assert f"between {low:.3%} and {high:.2%} for 95%" in sentence


def test_the_guarantee_states_its_confidence() -> None:
    assert "At most 1% of normal images are flagged, with 95% confidence" in (
        decision(np.arange(299), rate=0.01, confidence=0.95).promise()
    )


def test_the_guarantee_says_that_a_default_rate_above_one_percent_is_the_lowest() -> None:
    sentence = decision(np.arange(50)).promise()
    assert sentence.startswith("At most 2.0% (the lowest rate that can be guaranteed) of normal")
    assert "lowest" not in decision(np.arange(99)).promise()


def test_the_training_percentile_has_no_guarantee_and_states_the_measured_rate() -> None:
    training = np.arange(101.0)
    assert "no guarantee" in decision(training=training, percentile=99.0).promise()
    sentence = decision(np.arange(200.0), training, percentile=99.0).promise()
    assert sentence.endswith("(no guarantee); it flags 50.0% of 200 held-out normal images.")


def test_the_capacity_states_the_lowest_rates_and_what_half_the_rate_needs() -> None:
    assert decision(np.arange(260.0)).calibration_capacity() == (
        "260 held-out normal images can guarantee 0.39% at best on average, or 1.2% with 95% confidence; "
        "0.5% needs 199 images and can be set without retraining."
    )
    assert (
        decision(np.arange(299.0), rate=0.01, confidence=0.95)
        .calibration_capacity()
        .endswith("; 0.5% with 95% confidence needs 598 images, 299 more.")
    )
