"""P-values and threshold ranks from the scores of held-out normal images, with their guarantees; NumPy only.

All guarantees rest on one assumption: the held-out images and new normal images are exchangeable, that is, they come
from the same process and the detector was trained on neither. A new normal image is then equally likely to have any
rank among the n held-out images (conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from oddlens.conformal.schemes import HELD_OUT, CalibrationScheme
from oddlens.errors import CalibrationError, SettingsError

DEFAULT_RATE = 0.01
DEFAULT_CONFIDENCE = 0.95  # the usual confidence of a PAC guarantee
_TOLERANCE = Decimal("1e-40")  # so that equality with the allowed error probability survives rounding at 50 digits

Scores = npt.NDArray[np.float64]


def conformal_rank(n: int, rate: float) -> int:
    """Rank (1 = smallest) among n held-out scores of the threshold that flags at most `rate` on average.

    It is ceil((1 - rate)(n + 1)), with `rate` read as the decimal that it is written as: in binary floating
    point some ranks, such as that of n = 124 and rate = 0.176, are off by one.

    Raises:
        CalibrationError: n images cannot guarantee this rate.

    >>> conformal_rank(99, 0.01), conformal_rank(124, 0.176)
    (99, 103)
    """
    return threshold_rank(n, rate, None)


def pac_rank(n: int, rate: float, confidence: float) -> int:
    """Smallest rank whose realized rate exceeds `rate` with a probability of at most 1 - confidence.

    The r-th smallest of n scores flags more than `rate` if at most n - r of them lie in the upper
    `rate` of all normal scores: a binomial tail, summed here with 50 decimal digits.

    Raises:
        CalibrationError: n images cannot guarantee this rate with this confidence.

    >>> pac_rank(299, 0.01, 0.95), pac_rank(473, 0.01, 0.95)
    (299, 472)
    """
    return threshold_rank(n, rate, confidence)


def threshold_rank(
    n: int,
    rate: float,
    confidence: float | None,
    scheme: CalibrationScheme = HELD_OUT,
    n_images: int | None = None,
) -> int:
    """Rank of the threshold among n scores: `conformal_rank` without a confidence, `pac_rank` with one.

    Other schemes than held-out images have other bounds (see `conformal.schemes`), and no confidence. Where groups of
    images are counted, n is the number of groups and `n_images`, for messages, that of the images.

    Raises:
        CalibrationError: n images cannot guarantee this rate; the message gives the lowest rate that they can
            guarantee and the number of images that `rate` needs.
    """
    _check_open_unit_interval("false-alarm rate", rate)
    rank_from_top = _rank_from_top(n, rate, confidence, scheme) if n > 0 else 0
    if rank_from_top:
        return n + 1 - rank_from_top
    if n > 0:
        lowest = format_percent(min_false_alarm_rate(n, confidence, scheme), 2, ROUND_CEILING)
        capacity = f"a false-alarm rate of {lowest} at best"
    else:
        capacity = "no false-alarm rate"
    with_confidence = "" if confidence is None else f" with {format_percent(confidence)} confidence"
    needed = f"{min_calibration_size(rate, confidence, scheme)}{'' if n_images is None else ' groups'}"
    raise CalibrationError(
        f"{scheme.format_count(n, n_images)} can guarantee {capacity}{with_confidence}; {format_percent(rate)} needs "
        f"{needed}: {scheme.remedy} or request a higher false-alarm rate"
    )


def max_losses(n: int, rate: float, scheme: CalibrationScheme = HELD_OUT) -> Fraction:
    """Most calibration images, of n, that a flagged image may lose to so that at most `rate` are flagged on average.

    It is negative where n images cannot guarantee the rate. With weights, it bounds their sum.
    """
    return (Fraction(str(rate)) * (n + scheme.extra) - scheme.offset) / scheme.slope


def min_false_alarm_rate(n: int, confidence: float | None = None, scheme: CalibrationScheme = HELD_OUT) -> float:
    """Lowest false-alarm rate that n calibration images can guarantee, on average or with `confidence`.

    It is the smallest float that the rank functions accept near 1 / (n + 1), near 1 - (1 - confidence)^(1/n) with a
    confidence, or near 2 K / (n + K) with K folds.

    Raises:
        CalibrationError: n is 0.
    """
    if n < 1:
        raise CalibrationError(
            "0 held-out normal images can guarantee no false-alarm rate: calibrate with at least one image"
        )
    rate = scheme.offset / (n + scheme.extra)
    if confidence is not None:
        with _fifty_digit_arithmetic():
            rate = float(1 - _error_probability(confidence) ** (1 / Decimal(n)))
    while rate < 1 and _rank_from_top(n, rate, confidence, scheme) < 1:
        rate = math.nextafter(rate, 1)
    return rate


def min_calibration_size(rate: float, confidence: float | None = None, scheme: CalibrationScheme = HELD_OUT) -> int:
    """Smallest number of calibration images that can guarantee `rate`, on average or with `confidence`.

    >>> min_calibration_size(0.01), min_calibration_size(0.01, confidence=0.95)
    (99, 299)
    """
    _check_open_unit_interval("false-alarm rate", rate)
    if confidence is None:
        return max(1, math.ceil(scheme.offset / Fraction(str(rate))) - scheme.extra)
    with _fifty_digit_arithmetic():
        exact = _error_probability(confidence).ln() / (1 - Decimal(str(rate))).ln()
        return max(1, math.ceil(exact - _TOLERANCE))


def realized_rate_interval(n: int, rank: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the realized false-alarm rate of the threshold at the rank-th smallest of n scores.

    Over calibration sets that rate has the distribution Beta(n + 1 - rank, rank); equal scores only
    lower it. Its quantiles are computed by bisection of a binomial tail.

    Raises:
        SettingsError: rank is not in 1..n, or level not between 0 and 1.

    >>> [round(bound, 4) for bound in realized_rate_interval(999, 990)]
    [0.0048, 0.017]
    """
    if not 1 <= rank <= n:
        raise SettingsError(f"rank {rank} of {n} scores does not exist: use a rank from 1 to {n}")
    _check_open_unit_interval("level", level)
    above = np.arange(1, n - rank + 1)
    log_binomials = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - above) / above))])  # of n choose 0, 1, ...
    above = np.concatenate([[0], above])

    def exceedance(rate: float) -> float:
        """Probability that the realized rate exceeds `rate`: at most n - rank of n scores fall in that share."""
        return float(np.exp(log_binomials + above * math.log(rate) + (n - above) * math.log1p(-rate)).sum())

    def quantile(probability: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if exceedance(middle) > 1 - probability else (low, middle)
        return high

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


def p_values(calibration_scores: npt.ArrayLike, scores: npt.ArrayLike) -> Scores:
    """Conformal p-values (N,): (1 + number of the n calibration scores at or above the score) / (n + 1).

    A normal image has p <= a with a probability of at most a, with or without ties.

    Raises:
        CalibrationError: a score is NaN.

    >>> p_values([1.0, 2.0, 2.0, 3.0], [0.0, 2.0, 9.0]).tolist()
    [1.0, 0.8, 0.2]
    """
    calibration = np.sort(check_scores(calibration_scores, "calibration score"))
    result: Scores = ranks_from_top(calibration, scores) / (len(calibration) + 1)
    return result


def benjamini_hochberg_rank(ranks: npt.ArrayLike, n: int, rate: float) -> int:
    """Largest rank to flag so that, on average, at most `rate` of the flagged images are normal; 0 flags none.

    The Benjamini-Hochberg procedure on conformal p-values; it remains valid under their dependence (Bates et al.,
    Annals of Statistics 2023). `ranks` (N,) are 1 + the number of the n calibration scores at or above each image's
    score: the p-values times n + 1, as integers, so that nothing is rounded.

    >>> benjamini_hochberg_rank([1, 1, 50, 100], 99, 0.05), benjamini_hochberg_rank([1, 30, 50, 100], 99, 0.01)
    (1, 0)
    """
    _check_open_unit_interval("false discovery rate", rate)
    exact_rate = Fraction(str(rate))
    ascending = sorted(int(rank) for rank in np.asarray(ranks))
    for count in range(len(ascending), 0, -1):
        rank = ascending[count - 1]
        if rank * len(ascending) * exact_rate.denominator <= exact_rate.numerator * count * (n + 1):
            return rank
    return 0


def min_rejections(count: int, n: int, rate: float) -> int:
    """Number of `count` images that must exceed all n calibration scores before Benjamini-Hochberg flags any.

    >>> min_rejections(1000, 99, 0.05), min_rejections(1000, 9, 0.05)
    (200, 2000)
    """
    _check_open_unit_interval("false discovery rate", rate)
    return math.ceil(count / (Fraction(str(rate)) * (n + 1)))


@contextmanager
def _fifty_digit_arithmetic() -> Iterator[None]:
    """Decimal arithmetic with 50 digits and without underflow."""
    with localcontext(Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX)):
        yield


def _error_probability(confidence: float) -> Decimal:
    _check_open_unit_interval("confidence", confidence)
    return 1 - Decimal(str(confidence))


def _rank_from_top(n: int, rate: float, confidence: float | None, scheme: CalibrationScheme) -> int:
    """Rank of the threshold from the top (1 = largest score); 0 if n scores cannot guarantee `rate`."""
    if confidence is None:
        return min(n, max(0, math.floor(max_losses(n, rate, scheme)) + 1))
    with _fifty_digit_arithmetic():
        exact_rate, allowed = Decimal(str(rate)), _error_probability(confidence) + _TOLERANCE
        rank, term = 0, (1 - exact_rate) ** n  # term: probability that exactly `rank` of n scores lie in the top share
        tail = term
        while tail <= allowed and rank < n:
            rank += 1
            term *= exact_rate * (n + 1 - rank) / ((1 - exact_rate) * rank)
            tail += term
    return rank


def ranks_from_top(sorted_calibration: Scores, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Ranks (N,): 1 + the number of calibration scores (n,), sorted in ascending order, at or above each score (N,).

    Raises:
        CalibrationError: a score is NaN.
    """
    below = np.searchsorted(sorted_calibration, check_scores(scores, "score"), side="left")
    return np.asarray(1 + len(sorted_calibration) - below, dtype=np.int64)


def check_scores(values: npt.ArrayLike, name: str) -> Scores:
    """Convert the values to float64 scores; `name` describes one of them in the error.

    Raises:
        CalibrationError: a score is NaN.
    """
    scores = np.asarray(values, dtype=np.float64)
    invalid = np.flatnonzero(np.isnan(scores))
    if invalid.size:
        raise CalibrationError(f"{name} {invalid[0]} of {scores.size} is NaN: the detector is broken, fit it again")
    return scores


def _check_open_unit_interval(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise SettingsError(f"the {name} must lie between 0 and 1, got {value}: write 1% as 0.01")


def format_percent(fraction: float, digits: int | None = None, rounding: str = ROUND_HALF_EVEN) -> str:
    """Format a fraction as a percentage, rounded to `digits` significant digits or else with all of its own."""
    exact = Decimal(str(fraction)) * 100
    exact = Context(digits, rounding).plus(exact) if digits else exact.normalize()
    return f"{exact:f}%"
