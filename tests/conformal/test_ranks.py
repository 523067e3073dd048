"""Ranks, rates and p-values, checked with exact fractions and by simulation."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import (
    benjamini_hochberg_rank,
    conformal_rank,
    min_calibration_size,
    min_false_alarm_rate,
    min_rejections,
    p_values,
    pac_rank,
    realized_rate_interval,
)
from oddlens.errors import CalibrationError, SettingsError

Scores = npt.NDArray[np.float64]

unhurried = settings(deadline=None)  # the machine may be busy
rates = st.integers(1, 9_999).map(lambda number: number / 10_000)  # 0.0001 ... 0.9999, written with four digits
confidences = st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99, 0.999])
# Few distinct values, so that ties and infinities are common.
tied_scores = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf]), min_size=1, max_size=60)
continuous_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def threshold(calibration: npt.ArrayLike, rate: float, confidence: float | None) -> float:
    settings = DecisionSettings(false_alarm_rate=rate, confidence=confidence)
    return Decision(settings, np.asarray(calibration, float), np.empty(0)).threshold


def exceedance_probability(n: int, rank: int, rate: float) -> Fraction:
    """P(the rank-th smallest of n uniform scores flags more than `rate`), exactly."""
    share = Fraction(str(rate))
    return sum(
        (math.comb(n, above) * share**above * (1 - share) ** (n - above) for above in range(n - rank + 1)), Fraction(0)
    )


# Ranks


@given(n=st.integers(1, 5_000), rate=rates)
@unhurried
def test_conformal_rank_is_exact_in_decimals(n: int, rate: float) -> None:
    exact = math.ceil((1 - Fraction(str(rate))) * (n + 1))
    if exact <= n:
        assert conformal_rank(n, rate) == exact
    else:
        with pytest.raises(CalibrationError):
            conformal_rank(n, rate)


def test_conformal_rank_is_correct_where_floats_are_off_by_one() -> None:
    assert math.ceil((1 - 0.176) * 125) == 104  # one way to compute it in floats
    assert conformal_rank(124, 0.176) == 103  # 0.824 * 125 is 103 exactly
    assert math.floor(0.29 * 100) == 28  # another
    assert conformal_rank(99, 0.29) == 100 - 29


@given(n=st.integers(1, 60), rate=rates, confidence=confidences)
@unhurried
def test_pac_rank_is_the_smallest_with_the_confidence(n: int, rate: float, confidence: float) -> None:
    allowed = 1 - Fraction(str(confidence))
    valid = [rank for rank in range(1, n + 1) if exceedance_probability(n, rank, rate) <= allowed]
    if valid:
        assert pac_rank(n, rate, confidence) == min(valid)
    else:
        with pytest.raises(CalibrationError):
            pac_rank(n, rate, confidence)


@pytest.mark.parametrize("n", [1, 7, 31, 39, 47, 49, 999])
def test_pac_rank_accepts_equality(n: int) -> None:
    # with n odd, at most (n - 1) / 2 scores lie in the upper half with a probability of exactly one half
    assert pac_rank(n, 0.5, 0.5) == (n + 1) // 2


@pytest.mark.parametrize(("rate", "confidence", "n"), [(0.1, 0.19, 2), (0.1, 0.3439, 4), (0.05, 0.142625, 3)])
def test_min_calibration_size_accepts_equality(rate: float, confidence: float, n: int) -> None:
    assert 1 - (1 - Fraction(str(rate))) ** n == Fraction(str(confidence))
    assert min_calibration_size(rate, confidence) == n


def test_pac_rank_is_one_for_a_confidence_near_zero() -> None:
    assert pac_rank(3, 0.5, 1e-45) == 1


@pytest.mark.parametrize(("n", "from_top"), [(299, 1), (473, 2), (628, 3), (1568, 10)])
def test_pac_ranks_at_one_percent_and_95_are_the_published_ones(n: int, from_top: int) -> None:
    assert pac_rank(n, 0.01, 0.95) == n + 1 - from_top
    if from_top > 1:
        assert pac_rank(n - 1, 0.01, 0.95) == n + 1 - from_top  # with one image fewer, one rank closer to the top


def test_pac_rank_handles_a_million_images_and_tails_below_the_smallest_float() -> None:
    rank = pac_rank(10**6, 0.01, 0.95)
    exceeds = stats.binom.cdf([10**6 - rank, 10**6 - rank + 1], 10**6, 0.01)
    assert exceeds[0] <= 0.05 < exceeds[1]
    n, share = 170_000, 0.999_999  # the probability that no score lies in the share is 1e-1020000
    assert pac_rank(n, share, 0.95) == n + 1 - int(stats.binom.ppf(0.05, n, share))


@given(n=st.integers(1, 3_000), confidence=st.none() | confidences)
@unhurried
def test_min_false_alarm_rate_is_guaranteed_and_no_lower_rate_is(n: int, confidence: float | None) -> None:
    def rank(rate: float) -> int:
        return conformal_rank(n, rate) if confidence is None else pac_rank(n, rate, confidence)

    smallest = min_false_alarm_rate(n, confidence)
    assert rank(smallest) == n
    with pytest.raises(CalibrationError):
        rank(smallest * (1 - 1e-9))
    exact = 1 / (n + 1) if confidence is None else 1 - (1 - confidence) ** (1 / n)
    assert smallest == pytest.approx(exact, rel=1e-9)


@given(rate=rates, confidence=st.none() | confidences)
@unhurried
def test_min_calibration_size_is_enough_and_one_image_fewer_is_not(rate: float, confidence: float | None) -> None:
    def rank(n: int) -> int:
        return conformal_rank(n, rate) if confidence is None else pac_rank(n, rate, confidence)

    needed = min_calibration_size(rate, confidence)
    assert rank(needed) == needed  # the largest score is the threshold
    if needed > 1:
        with pytest.raises(CalibrationError):
            rank(needed - 1)


@pytest.mark.parametrize(("confidence", "needed"), [(None, 99), (0.95, 299)])
def test_error_for_too_few_images_gives_the_lowest_rate_and_the_number_needed(
    confidence: float | None, needed: int
) -> None:
    with pytest.raises(CalibrationError) as caught:
        threshold(np.arange(50), 0.01, confidence)
    message = str(caught.value)
    assert f"1% needs {needed}:" in message
    assert "\n" not in message
    capacity = "2.0% at best;" if confidence is None else "5.9% at best with 95% confidence;"
    assert f"50 held-out normal images can guarantee a false-alarm rate of {capacity}" in message


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize("n", [1, 2, 51, 98, 150, 298])
def test_the_rate_that_the_error_offers_is_accepted(n: int, confidence: float | None) -> None:
    too_small = 0.0001
    with pytest.raises(CalibrationError) as caught:
        threshold(np.arange(n), too_small, confidence)
    offered = Decimal(str(caught.value).split("rate of ")[1].split("%")[0]) / 100
    assert threshold(np.arange(n), float(offered), confidence) == n - 1


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_rates_outside_0_to_1_are_refused(rate: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        conformal_rank(100, rate)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        min_calibration_size(rate)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        pac_rank(100, 0.1, rate)


def test_no_images_guarantee_no_rate() -> None:
    with pytest.raises(CalibrationError, match="0 held-out normal images can guarantee no false-alarm rate"):
        conformal_rank(0, 0.01)
    with pytest.raises(CalibrationError, match="0 held-out normal images can guarantee no false-alarm rate"):
        min_false_alarm_rate(0)


# Realized rate


@pytest.mark.parametrize(("n", "upper"), [(99, 0.02981), (499, 0.01825), (999, 0.01567), (4999, 0.01242)])
def test_upper_95_bound_of_the_realized_rate_is_the_published_one(n: int, upper: float) -> None:
    # a central interval of 90% ends at the one-sided bound of 95%
    assert round(realized_rate_interval(n, conformal_rank(n, 0.01), level=0.9)[1], 5) == upper


@pytest.mark.parametrize(
    ("n", "rank"), [(1, 1), (2, 1), (99, 99), (99, 50), (99, 1), (4_999, 4_950), (10**6, 990_001), (10**6, 10**6)]
)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_realized_rate_interval_is_the_beta_interval(n: int, rank: int, level: float) -> None:
    expected = stats.beta.interval(level, n + 1 - rank, rank)
    assert realized_rate_interval(n, rank, level) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("rank", [0, 11, -1])
def test_realized_rate_interval_refuses_a_rank_that_does_not_exist(rank: int) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        realized_rate_interval(10, rank)


SETS = 2_000


def realized_rates(n: int, rate: float, confidence: float | None) -> Scores:
    """False-alarm rates of many calibration sets: exactly 1 - t of all uniform scores lie above t."""
    draws = np.random.default_rng([n, round(rate * 100)]).random((SETS, n))
    return np.array([1 - threshold(scores, rate, confidence) for scores in draws])


@pytest.mark.parametrize("n", [99, 199, 999])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_conformal_thresholds_flag_at_most_the_rate_on_average(n: int, rate: float) -> None:
    realized = realized_rates(n, rate, None)
    law = stats.beta(n + 1 - conformal_rank(n, rate), conformal_rank(n, rate))
    # four standard errors of the mean of so many draws: passed by chance 3 times in 100,000
    assert realized.mean() <= rate + 4 * law.std() / math.sqrt(SETS)
    assert law.mean() == pytest.approx(rate)  # the bound is tight, so the test above can fail
    assert stats.kstest(realized, law.cdf).pvalue > 0.001


@pytest.mark.parametrize(("n", "rate"), [(99, 0.05), (199, 0.05), (999, 0.05), (999, 0.01), (299, 0.01)])
def test_pac_thresholds_exceed_the_rate_in_at_most_5_percent_of_calibration_sets(n: int, rate: float) -> None:
    exceeding = (realized_rates(n, rate, 0.95) > rate).mean()
    expected = float(exceedance_probability(n, pac_rank(n, rate, 0.95), rate))
    # four standard errors of a share among so many calibration sets
    assert exceeding <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / SETS)
    assert exceeding == pytest.approx(expected, abs=4 * math.sqrt(expected / SETS))


@pytest.mark.parametrize("n", [99, 199, 298])
def test_one_percent_with_confidence_is_refused_below_299_images(n: int) -> None:
    with pytest.raises(CalibrationError, match="1% needs 299"):
        threshold(np.arange(n), 0.01, 0.95)


# P-values


@given(tied_scores | continuous_scores, tied_scores | continuous_scores)
@unhurried
def test_p_values_count_the_scores_at_or_above(calibration: list[float], scores: list[float]) -> None:
    n = len(calibration)
    expected = [(1 + sum(other >= score for other in calibration)) / (n + 1) for score in scores]
    assert p_values(calibration, scores).tolist() == expected


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), rates)
@unhurried
def test_p_values_are_valid_with_ties(scores: list[int], rate: float) -> None:
    # exchangeable: each of the n + 1 scores is equally likely to be the new one
    small = [p_values(scores[:i] + scores[i + 1 :], [scores[i]])[0] <= rate for i in range(len(scores))]
    assert Fraction(sum(small), len(scores)) <= Fraction(str(rate))


# False discovery rate


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
def test_benjamini_hochberg_rank_is_the_procedure_in_exact_arithmetic(rate: float, rng: np.random.Generator) -> None:
    for _ in range(200):
        n, count = int(rng.integers(1, 60)), int(rng.integers(1, 40))
        ranks = rng.integers(1, rng.integers(2, n + 3), count).clip(max=n + 1)
        p_values = sorted(Fraction(int(rank), n + 1) for rank in ranks)
        accepted = [i for i, p in enumerate(p_values, 1) if p <= Fraction(str(rate)) * i / count]
        expected = int(p_values[accepted[-1] - 1] * (n + 1)) if accepted else 0
        assert benjamini_hochberg_rank(ranks, n, rate) == expected


@pytest.mark.parametrize(("n", "rejections"), [(18, 106), (19, 100), (199, 10), (999, 2)])
def test_min_rejections_is_the_smallest_number_that_benjamini_hochberg_flags(n: int, rejections: int) -> None:
    assert min_rejections(100, n, 0.05) == rejections
    for extreme in {min(rejections, 100), min(rejections, 100) - 1}:
        ranks = [1] * extreme + [n + 1] * (100 - extreme)
        assert (benjamini_hochberg_rank(ranks, n, 0.05) > 0) == (extreme >= rejections)


def test_false_discovery_rates_outside_0_to_1_are_refused() -> None:
    for rate in (0.0, 1.0):
        with pytest.raises(SettingsError, match="false discovery rate must lie between 0 and 1"):
            benjamini_hochberg_rank([1], 9, rate)
        with pytest.raises(SettingsError, match="false discovery rate must lie between 0 and 1"):
            min_rejections(10, 9, rate)


def test_calibration_needs_neither_scipy_nor_scikit_learn_nor_torch() -> None:
    code = (
        "import sys; sys.modules.update(scipy=None, sklearn=None, torch=None); import numpy as np;"
        "from oddlens.conformal.decision import Decision; from oddlens.config.base import DecisionSettings;"
        "print(Decision(DecisionSettings(confidence=0.9), np.arange(999.0), np.empty(0)).promise())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("At most 1%")
