"""Calibration scores counted by image and by group, held out or by leave-one-out: exact, and valid in simulations."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import simulated_calibrations
from hypothesis import given, settings
from hypothesis import strategies as st

from oddlens.config.base import DecisionSettings
from oddlens.conformal.calibration_scores import CalibrationScores
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT, CalibrationScheme, in_folds
from oddlens.errors import CalibrationError, SettingsError

NONE = np.empty(0)


@st.composite
def clustered_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties and infinities, in groups of different sizes."""
    scores = draw(st.lists(st.sampled_from([-math.inf, 0.0, 1.0, 2.0, 3.0, math.inf]), min_size=1, max_size=40))
    clusters = draw(st.lists(st.integers(0, 9), min_size=len(scores), max_size=len(scores)))
    return np.array(scores), np.array(clusters)


@pytest.mark.parametrize("scheme", [HELD_OUT, LEAVE_ONE_OUT])
@given(case=clustered_scores(), permille=st.integers(1, 999))
@settings(deadline=None)
def test_flagged_scores_are_those_whose_exact_weighted_p_value_is_at_most_the_rate(
    scheme: CalibrationScheme, case: tuple[np.ndarray, np.ndarray], permille: int
) -> None:
    scores, clusters = case
    rate, subject = permille / 1000, CalibrationScores(scores, clusters, scheme)
    sizes = np.bincount(clusters)
    weights = [Fraction(1, int(sizes[cluster])) for cluster in clusters]
    new = [-math.inf, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, math.inf]
    exact = []
    for score in new:
        lost = sum((w for w, other in zip(weights, scores, strict=True) if other >= score), Fraction(0))
        exact.append(min(Fraction(1), (scheme.slope * lost + 1) / (len(set(clusters.tolist())) + 1)))
    assert subject.p_values(new).tolist() == [float(p) for p in exact]
    flagged = [p <= Fraction(str(rate)) for p in exact]
    if subject.min_rate() > rate:
        assert not any(flagged)
        with pytest.raises(CalibrationError, match="can guarantee"):
            subject.threshold(rate, None)
    else:
        assert [score > subject.threshold(rate, None) for score in new] == flagged


@given(case=clustered_scores())
def test_each_image_in_a_group_of_its_own_is_as_without_groups(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores = case[0]
    by_image, by_group = CalibrationScores(scores), CalibrationScores(scores, np.arange(len(scores))[::-1])
    assert not by_group.is_clustered
    assert by_group.description == by_image.description
    rate = by_image.min_rate()
    for confidence in (None, 0.9):
        rate = by_image.min_rate(confidence)
        assert by_group.threshold(rate, confidence) == by_image.threshold(rate, confidence)
    assert by_group.p_values(scores).tolist() == by_image.p_values(scores).tolist()
    assert by_group.independent is by_group.largest is by_group.scores


def test_groups_of_many_sizes_are_counted_without_rounding() -> None:
    clusters = np.repeat(np.arange(1, 60), np.arange(1, 60))  # the unit has more digits than a 64-bit integer
    subject = CalibrationScores(np.zeros(len(clusters)), clusters)
    assert subject.unit > 2**64
    assert subject.p_values([0.0, 1.0]).tolist() == [1.0, 1 / 60]
    assert subject.min_rate() == pytest.approx(1 / 60, rel=1e-12)


@pytest.mark.parametrize("rate", simulated_calibrations.RATES)
@pytest.mark.parametrize(
    "scheme", list(simulated_calibrations.SCHEMES)[:4:2] + list(simulated_calibrations.SCHEMES)[3:4]
)
def test_the_rate_holds_for_new_parts_in_simulations(scheme: str, rate: float) -> None:
    shares = simulated_calibrations.flagged_shares(scheme, rate, 400)
    assert shares.mean() <= rate + 3 * shares.std() / len(shares) ** 0.5
    assert shares.mean() > rate / 4  # not by flagging nothing


@pytest.mark.parametrize("scheme", ["held out, counted by image", "leave-one-out, single photographs left out"])
def test_the_rate_fails_in_simulations_where_near_duplicates_count_as_independent(scheme: str) -> None:
    shares = simulated_calibrations.flagged_shares(scheme, 0.1, 100)
    assert shares.mean() - 3 * shares.std() / 10 > 0.15


def test_a_confidence_counts_each_group_by_its_largest_score() -> None:
    scores, clusters = np.arange(90.0), np.repeat(np.arange(30), 3)
    settings_ = DecisionSettings(false_alarm_rate=0.2, confidence=0.9)
    by_group = Decision(settings_, scores, NONE, HELD_OUT, clusters)
    alone = Decision(settings_, scores[2::3], NONE)
    assert by_group.threshold == alone.threshold
    assert by_group.promise().endswith(
        "(counted as 30 groups of near-duplicates); each group counts by its largest score."
    )


def test_each_calibration_draws_anew_which_image_of_a_group_is_taken(rng: np.random.Generator) -> None:
    """A draw by the places in the sorted scores would always take the same of two."""
    pairs = [CalibrationScores(np.sort(rng.normal(size=2)), np.zeros(2, dtype=np.int64)) for _ in range(100)]
    n_larger = sum(int(pair.independent[0] == pair.scores[1]) for pair in pairs)
    assert 30 < n_larger < 70


def test_what_needs_independent_images_takes_one_of_each_group(rng: np.random.Generator) -> None:
    scores, clusters = rng.normal(size=400), rng.integers(0, 50, 400)
    subject = CalibrationScores(scores, clusters)
    drawn = subject.independent
    assert len(drawn) == 50
    assert sorted(clusters[np.isin(scores, drawn)]) == list(range(50))
    again = CalibrationScores(scores[::-1], clusters[::-1])
    assert np.array_equal(again.independent, drawn)
    assert 0.2 < np.mean([(drawn[i] >= np.median(scores)) for i in range(50)]) < 0.8  # not the extremes of the groups
    decision = Decision(DecisionSettings(), scores, NONE, HELD_OUT, clusters)
    assert decision.ranks([np.inf, -np.inf]).tolist() == [1, 51]
    alone = Decision(DecisionSettings(), drawn, NONE)
    many = rng.normal(2, 1, 100)
    assert decision.discovery_threshold(many, 0.3) == alone.discovery_threshold(many, 0.3)
    grouped = GroupedDecision({UNGROUPED: decision})
    assert grouped.discovery_thresholds(many, 0.3)[0] == alone.discovery_threshold(many, 0.3)


@pytest.mark.parametrize(("scheme", "how"), [(LEAVE_ONE_OUT, "by leave-one-out"), (in_folds(3), "in folds")])
def test_training_images_are_refused_where_independent_images_are_needed(scheme: CalibrationScheme, how: str) -> None:
    decision = Decision(DecisionSettings(false_alarm_rate=0.1), np.arange(99.0), NONE, scheme)
    with pytest.raises(SettingsError, match=f"calibrated {how}: run `oddlens calibrate`"):
        _ = decision.calibration.independent
    with pytest.raises(SettingsError, match=f"calibrated {how}: run `oddlens calibrate`"):
        GroupedDecision({UNGROUPED: decision}).check_images(3, control_fdr=True)
    with pytest.raises(SettingsError, match="on average only, not with a confidence"):
        Decision(DecisionSettings(confidence=0.9), np.arange(99.0), NONE, scheme)


def test_leave_one_out_guarantees_one_percent_from_99_images_and_says_its_bound() -> None:
    decision = Decision(DecisionSettings(), np.arange(209.0), np.arange(50.0), LEAVE_ONE_OUT)
    assert decision.calibration.min_rate() == pytest.approx(1 / 210)
    assert (decision.false_alarm_rate, decision.threshold) == (0.01, 208.0)  # (2 + 1) / 210 is above 1%
    assert decision.p_values([209.0, 208.0, 0.0]).tolist() == [1 / 210, 3 / 210, 1.0]
    assert decision.promise() == (
        "At most 1% of normal images are flagged, on average over calibration sets, provided they resemble the 209 "
        "normal images (leave-one-out); the bound is (2 c + 1) / (n + 1) for images that lose to at most c."
    )
    assert decision.guarantee() == {
        "kind": "on average", "confidence": None, "false_alarm_rate": 0.01, "calibration": "leave-one-out",
        "bound": "(2 c + 1) / (n + 1)", "calibration_groups": None, "realised_range": None,
        "smallest_rate": decision.calibration.min_rate(), "stricter_rate": 0.005, "more_images_for_it": 0,
    }  # fmt: skip
    assert Decision(DecisionSettings(), np.arange(98.0), NONE, LEAVE_ONE_OUT).false_alarm_rate > 0.01
    percentile = Decision(DecisionSettings(method="train_percentile"), np.arange(99.0), np.arange(99.0), LEAVE_ONE_OUT)
    assert percentile.threshold == np.percentile(np.arange(99.0), 99)


def test_the_guarantee_by_group_is_for_new_parts() -> None:
    decision = Decision(DecisionSettings(), np.arange(663.0), NONE, HELD_OUT, np.arange(663) % 146)
    assert decision.promise() == (
        "At most 1% of normal images of new parts are flagged, on average over calibration sets, provided they "
        "resemble the 663 held-out normal images (counted as 146 groups of near-duplicates)."
    )
    assert decision.calibration_capacity().startswith(
        "663 held-out normal images (counted as 146 groups of near-duplicates) can guarantee 0.69% at best on average"
    )
    assert decision.calibration_capacity().endswith("0.5% needs 199 groups, 53 more.")
    assert decision.guarantee()["calibration_groups"] == 146
    assert decision.guarantee()["realised_range"] is None
    assert Decision(DecisionSettings(), np.arange(663.0), NONE).guarantee()["realised_range"] is not None
    warning = decision.fdr_warning(1000, 0.05)
    assert warning is not None
    assert "with 146 calibration groups of near-duplicates" in warning


def test_simulated_parts_that_are_rare_are_photographed_once_and_usual_ones_several_times(
    rng: np.random.Generator,
) -> None:
    drawn = simulated_calibrations.photographs(rng, 200)
    assert set(np.bincount(drawn.parts)) == {1, simulated_calibrations.N_PHOTOGRAPHS}
    spread = [np.ptp(drawn.points[drawn.parts == part], axis=0).max() for part in range(200)]
    assert max(spread) < 10 * simulated_calibrations.SPREAD
