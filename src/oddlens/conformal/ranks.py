"""Scores of held-out normal images -> p-values, thresholds, and what they promise; NumPy alone.

The promises rest on one assumption: the held-out images and the new normal ones are exchangeable, that
is, they come from the same process and the detector was trained on neither. Then, over n held-out
images, a new normal image ranks anywhere among them with equal chance (conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from oddlens.errors import CalibrationError, SettingsError

DEFAULT_RATE = 0.01
DEFAULT_CONFIDENCE = 0.95  # the confidence that a promise is usually asked to have, if any
_ROUNDING = Decimal("1e-40")  # a chance that equals the doubt allowed must not exceed it by its fiftieth digit

Scores = npt.NDArray[np.float64]


def conformal_rank(n: int, rate: float) -> int:
    """Rank (1 = smallest) among n held-out scores of the threshold that flags at most `rate` on average.

    ceil((1 - rate)(n + 1)), with `rate` read as the decimal that it is written as: in binary floating
    point some ranks, such as that of n = 124 and rate = 0.176, come out one off.

    Raises:
        CalibrationError: n images cannot promise this rate.

    >>> conformal_rank(99, 0.01), conformal_rank(124, 0.176)
    (99, 103)
    """
    return threshold_rank(n, rate, None)


def pac_rank(n: int, rate: float, confidence: float) -> int:
    """Smallest rank whose realised rate exceeds `rate` with a chance of at most 1 - confidence.

    The r-th smallest of n scores flags more than `rate` when at most n - r of them lie in the upper
    `rate` of all normal scores: a binomial tail, summed here in 50 decimal digits.

    Raises:
        CalibrationError: n images cannot promise this rate with this confidence.

    >>> pac_rank(299, 0.01, 0.95), pac_rank(473, 0.01, 0.95)
    (299, 472)
    """
    return threshold_rank(n, rate, confidence)


def threshold_rank(n: int, rate: float, confidence: float | None, folds: int = 1) -> int:
    """Rank of the threshold among n scores: `conformal_rank` without a confidence, `pac_rank` with one.

    With `folds` K > 1 the n images were scored out of fold, and a new image is ranked by how many of them, each scored
    by the model that did not learn it, are at or above what the same model gives the new image (cross-conformal). If
    at most c are, it is flagged; this happens to at most 2 (K + c) / (n + K) of normal images: in each fold the rank
    is a conformal p-value, and twice a mean of p-values is one (Vovk et al., Annals of Statistics 2018).

    Raises:
        CalibrationError: n images cannot promise this rate; it names the best that they can, and how
            many images it takes.
    """
    _check_share("false-alarm rate", rate)
    places = _places(n, rate, confidence, folds) if n > 0 else 0
    if places:
        return n + 1 - places
    best = (
        f"{format_percent(min_false_alarm_rate(n, confidence, folds), 2, ROUND_CEILING)} at best"
        if n > 0
        else "nothing"
    )
    sure = "" if confidence is None else f" with {format_percent(confidence)} confidence"
    more = "hold out more normal images" if folds == 1 else "give more normal images, use fewer folds"
    raise CalibrationError(
        f"{n_images(n, folds)} can promise {best}{sure}, and {format_percent(rate)} needs "
        f"{min_calibration_size(rate, confidence, folds)}: {more}, or ask for a higher false-alarm rate"
    )


def min_false_alarm_rate(n: int, confidence: float | None = None, folds: int = 1) -> float:
    """Smallest false-alarm rate that n held-out images can promise, on average or with `confidence`.

    It is the float next to 1 / (n + 1), to 1 - (1 - confidence)^(1/n), or to 2 K / (n + K) with K folds, that the rank
    functions accept.

    Raises:
        CalibrationError: there are no images.
    """
    if n < 1:
        raise CalibrationError("0 held-out normal images can promise nothing: calibrate on at least one")
    rate = 1 / (n + 1) if folds == 1 else 2 * folds / (n + folds)
    if confidence is not None and folds == 1:
        with _fifty_digits():
            rate = float(1 - _doubt(confidence) ** (1 / Decimal(n)))
    while rate < 1 and _places(n, rate, confidence, folds) < 1:
        rate = math.nextafter(rate, 1)
    return rate


def min_calibration_size(rate: float, confidence: float | None = None, folds: int = 1) -> int:
    """Smallest number of held-out images that can promise `rate`, on average or with `confidence`.

    With `folds`, the number of images in all that cross-conformal needs.

    >>> images_needed(0.01), images_needed(0.01, confidence=0.95), images_needed(0.01, folds=5)
    (99, 299, 995)
    """
    _check_share("false-alarm rate", rate)
    if folds > 1:
        return math.ceil(2 * folds / Fraction(str(rate))) - folds
    if confidence is None:
        return math.ceil(1 / Fraction(str(rate))) - 1
    with _fifty_digits():
        exact = _doubt(confidence).ln() / (1 - Decimal(str(rate))).ln()
        return max(1, math.ceil(exact - _ROUNDING))


def realized_rate_interval(n: int, rank: int, level: float = 0.95) -> tuple[float, float]:
    """Central interval of the rate that the rank-th smallest of n scores really gives on new normals.

    Over calibration sets that rate has the distribution Beta(n + 1 - rank, rank); equal scores only
    lower it. Its quantiles are found by bisection of a binomial tail.

    >>> [round(end, 4) for end in realised_range(999, 990)]
    [0.0048, 0.017]
    """
    if not 1 <= rank <= n:
        raise SettingsError(f"rank {rank} of {n} scores does not exist: give one from 1 to {n}")
    _check_share("level", level)
    above = np.arange(1, n - rank + 1)
    log_counts = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - above) / above))])  # of n choose 0, 1, ...
    above = np.concatenate([[0], above])

    def exceeds(rate: float) -> float:
        """Chance that the realised rate is above `rate`: at most n - rank of n scores fall into it."""
        return float(np.exp(log_counts + above * math.log(rate) + (n - above) * math.log1p(-rate)).sum())

    def quantile(chance: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if exceeds(middle) > 1 - chance else (low, middle)
        return high

    return quantile((1 - level) / 2), quantile((1 + level) / 2)


def p_values(calibration_scores: npt.ArrayLike, scores: npt.ArrayLike) -> Scores:
    """Conformal p-values (N,): (1 + how many of n calibration scores are at or above the score) / (n + 1).

    A normal image has p <= a with a chance of at most a, ties or not.

    Raises:
        CalibrationError: a score is NaN.

    >>> p_values([1.0, 2.0, 2.0, 3.0], [0.0, 2.0, 9.0]).tolist()
    [1.0, 0.8, 0.2]
    """
    calibration = np.sort(check_scores(calibration_scores, "calibration score"))
    found: Scores = ranks_among(calibration, scores) / (len(calibration) + 1)
    return found


def fold_p_values(ranks: npt.ArrayLike, n: int, folds: int) -> Scores:
    """P-values (N,) that are proved of ranks among n images scored out of their folds; at most 1.

    `ranks` are 1 + how many of the n are at or above; see `promised_rank`.

    >>> fold_p_values([1, 2, 600], 595, 5).round(4).tolist()
    [0.0167, 0.02, 1.0]
    """
    bound = 2 * (folds + np.asarray(ranks, dtype=np.float64) - 1) / (n + folds)
    return np.minimum(1.0, bound)


def benjamini_hochberg_rank(ranks: npt.ArrayLike, n: int, rate: float) -> int:
    """The largest rank that is flagged where, among all that is flagged, at most `rate` shall be normal on average.

    Benjamini and Hochberg's procedure on conformal p-values, whose dependence it bears (Bates et al., Annals of
    Statistics 2023). `ranks` (N,) are 1 + how many of the n calibration scores are at or above each image's score:
    p-values times n + 1, in whole numbers, so that nothing is rounded. 0 where nothing is flagged.

    >>> discoveries([1, 1, 50, 100], 99, 0.05), discoveries([1, 30, 50, 100], 99, 0.01)
    (1, 0)
    """
    _check_share("false discovery rate", rate)
    asked = Fraction(str(rate))
    ordered = sorted(int(rank) for rank in np.asarray(ranks))
    for place in range(len(ordered), 0, -1):
        rank = ordered[place - 1]
        if rank * len(ordered) * asked.denominator <= asked.numerator * place * (n + 1):
            return rank
    return 0


def min_rejections(count: int, n: int, rate: float) -> int:
    """How many of `count` images must lie beyond all n calibration scores before `discoveries` flags any.

    >>> fewest_discoveries(1000, 99, 0.05), fewest_discoveries(1000, 9, 0.05)
    (200, 2000)
    """
    _check_share("false discovery rate", rate)
    return math.ceil(count / (Fraction(str(rate)) * (n + 1)))


@contextmanager
def _fifty_digits() -> Iterator[None]:
    """Decimal arithmetic that neither rounds before the fiftieth digit nor underflows."""
    with localcontext(Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX)):
        yield


def _doubt(confidence: float) -> Decimal:
    _check_share("confidence", confidence)
    return 1 - Decimal(str(confidence))


def _places(n: int, rate: float, confidence: float | None, folds: int = 1) -> int:
    """The threshold's place from the top (1 = largest score); 0 where n scores cannot promise `rate`."""
    if folds > 1:
        return min(n, max(0, math.floor(Fraction(str(rate)) * (n + folds) / 2) - folds + 1))
    if confidence is None:
        return math.floor(Fraction(str(rate)) * (n + 1))
    with _fifty_digits():
        share, allowed = Decimal(str(rate)), _doubt(confidence) + _ROUNDING
        places, term = 0, (1 - share) ** n  # term: chance that exactly `places` of n scores lie in the share
        tail = term
        while tail <= allowed and places < n:
            places += 1
            term *= share * (n + 1 - places) / ((1 - share) * places)
            tail += term
    return places


def ranks_among(ordered: Scores, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """1 + how many of the calibration scores, in rising order, are at or above each score."""
    below = np.searchsorted(ordered, check_scores(scores, "score"), side="left")
    return np.asarray(1 + len(ordered) - below, dtype=np.int64)


def check_scores(values: npt.ArrayLike, what: str) -> Scores:
    """The values as scores; refuses NaN."""
    scores = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(np.isnan(scores))
    if wrong.size:
        raise CalibrationError(f"{what} {wrong[0]} of {scores.size} is NaN: the detector is broken, fit it again")
    return scores


def _check_share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise SettingsError(f"the {what} must lie between 0 and 1, got {value}: 1% is written 0.01")


def n_images(n: int, folds: int = 1) -> str:
    """What n calibration images are called in a sentence."""
    how = "held-out normal" if folds == 1 else "normal"
    crossed = "" if folds == 1 else f" in {folds} folds"
    return f"{n} {how} image{'' if n == 1 else 's'}{crossed}"


def format_percent(share: float, digits: int | None = None, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as percent, rounded to so many significant digits, else with the digits that it was given."""
    exact = Decimal(str(share)) * 100
    exact = Context(digits, rounding).plus(exact) if digits else exact.normalize()
    return f"{exact:f}%"
