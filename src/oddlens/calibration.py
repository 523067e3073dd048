"""Scores of held-out normal images -> p-values, thresholds, and what they promise; NumPy alone.

The promises rest on one assumption: the held-out images and the new normal ones are exchangeable, that
is, they come from the same process and the detector was trained on neither. Then, over n held-out
images, a new normal image ranks anywhere among them with equal chance (conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from oddlens.config import DecisionSettings
from oddlens.errors import CalibrationError, SettingsError, StateError

DEFAULT_RATE = 0.01
SURE = 0.95  # the confidence that a promise is usually asked to have, if any
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
    return promised_rank(n, rate, None)


def pac_rank(n: int, rate: float, confidence: float) -> int:
    """Smallest rank whose realised rate exceeds `rate` with a chance of at most 1 - confidence.

    The r-th smallest of n scores flags more than `rate` when at most n - r of them lie in the upper
    `rate` of all normal scores: a binomial tail, summed here in 50 decimal digits.

    Raises:
        CalibrationError: n images cannot promise this rate with this confidence.

    >>> pac_rank(299, 0.01, 0.95), pac_rank(473, 0.01, 0.95)
    (299, 472)
    """
    return promised_rank(n, rate, confidence)


def promised_rank(n: int, rate: float, confidence: float | None) -> int:
    """Rank of the threshold among n scores: `conformal_rank` without a confidence, `pac_rank` with one.

    Raises:
        CalibrationError: n images cannot promise this rate; it names the best that they can, and how
            many images it takes.
    """
    _check_share("false-alarm rate", rate)
    places = _places(n, rate, confidence) if n > 0 else 0
    if places:
        return n + 1 - places
    best = f"{_percent(smallest_rate(n, confidence), 2, ROUND_CEILING)} at best" if n > 0 else "nothing"
    sure = "" if confidence is None else f" with {_percent(confidence)} confidence"
    raise CalibrationError(
        f"{_images(n)} can promise {best}{sure}, and {_percent(rate)} needs {images_needed(rate, confidence)}: "
        "hold out more normal images, or ask for a higher false-alarm rate"
    )


def smallest_rate(n: int, confidence: float | None = None) -> float:
    """Smallest false-alarm rate that n held-out images can promise, on average or with `confidence`.

    It is the float next to 1 / (n + 1), or to 1 - (1 - confidence)^(1/n), that the rank functions accept.

    Raises:
        CalibrationError: there are no images.
    """
    if n < 1:
        raise CalibrationError("0 held-out normal images can promise nothing: calibrate on at least one")
    rate = 1 / (n + 1)
    if confidence is not None:
        with _fifty_digits():
            rate = float(1 - _doubt(confidence) ** (1 / Decimal(n)))
    while _places(n, rate, confidence) < 1:
        rate = math.nextafter(rate, 1)
    return rate


def images_needed(rate: float, confidence: float | None = None) -> int:
    """Smallest number of held-out images that can promise `rate`, on average or with `confidence`.

    >>> images_needed(0.01), images_needed(0.01, confidence=0.95)
    (99, 299)
    """
    _check_share("false-alarm rate", rate)
    if confidence is None:
        return math.ceil(1 / Fraction(str(rate))) - 1
    with _fifty_digits():
        exact = _doubt(confidence).ln() / (1 - Decimal(str(rate))).ln()
        return max(1, math.ceil(exact - _ROUNDING))


def realised_range(n: int, rank: int, level: float = 0.95) -> tuple[float, float]:
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
    calibration = np.sort(_scores(calibration_scores, "calibration score"))
    found: Scores = _ranks(calibration, scores) / (len(calibration) + 1)
    return found


def discoveries(ranks: npt.ArrayLike, n: int, rate: float) -> int:
    """The largest rank that is flagged where, among all that is flagged, at most `rate` shall be normal on average.

    Benjamini and Hochberg's procedure on conformal p-values, whose dependence it bears (Bates et al., Annals of
    Statistics 2023). `ranks` (N,) are 1 + how many of the n calibration scores are at or above each image's score:
    p-values times n + 1, in whole numbers, so that nothing is rounded. 0 where nothing is flagged.

    >>> discoveries([1, 1, 50, 100], 99, 0.05), discoveries([1, 30, 50, 100], 99, 0.01)
    (1, 0)
    """
    _check_share("false discovery rate", rate)
    asked = Fraction(str(rate))
    ordered = np.sort(np.asarray(ranks, dtype=np.int64))
    for place in range(len(ordered), 0, -1):
        rank = int(ordered[place - 1])
        if rank * len(ordered) * asked.denominator <= asked.numerator * place * (n + 1):
            return rank
    return 0


def fewest_discoveries(count: int, n: int, rate: float) -> int:
    """How many of `count` images must lie beyond all n calibration scores before `discoveries` flags any.

    >>> fewest_discoveries(1000, 99, 0.05), fewest_discoveries(1000, 9, 0.05)
    (200, 2000)
    """
    _check_share("false discovery rate", rate)
    return math.ceil(count / (Fraction(str(rate)) * (n + 1)))


@dataclass(frozen=True, eq=False)
class Decision:
    """Everything that turns an anomaly score into a verdict.

    `calibration_scores` (n,) come from held-out normal images and are kept sorted; `training_scores`
    (m,) come from the images trained on. Either may be empty; both become read-only copies in float64.

    Raises:
        CalibrationError: a score is NaN (infinite ones are allowed and sort last).
    """

    settings: DecisionSettings
    calibration_scores: Scores
    training_scores: Scores

    def __post_init__(self) -> None:
        for name, scores in (
            ("calibration_scores", np.sort(_scores(self.calibration_scores, "calibration score"))),
            ("training_scores", _scores(self.training_scores, "training score").copy()),
        ):
            scores.setflags(write=False)
            object.__setattr__(self, name, scores)

    @property
    def false_alarm_rate(self) -> float:
        """The rate asked for; without one, 1% where it can be promised, else the smallest that can.

        For `train_percentile` it is the share of scores above the percentile, asked for or not.

        Raises:
            StateError: none was asked for, and conformal has no calibration images to choose by.
        """
        if self.settings.false_alarm_rate is not None:
            return self.settings.false_alarm_rate
        if self.settings.method == "train_percentile":
            return float((100 - Decimal(str(self.settings.train_percentile))) / 100)
        return max(DEFAULT_RATE, smallest_rate(self._n_calibration(), self.settings.confidence))

    @property
    def threshold(self) -> float:
        """The threshold of the method in the settings; a score above it is an anomaly, an equal one normal.

        Raises:
            StateError: the scores that the method needs are not there.
            CalibrationError: the calibration images cannot promise the rate asked for.
        """
        if self.settings.method == "conformal":
            return float(self.calibration_scores[self._conformal_rank() - 1])
        if self.percentile_threshold is None:
            raise StateError("the training percentile needs training scores and there are none: fit the detector again")
        return self.percentile_threshold

    @property
    def conformal_threshold(self) -> float | None:
        """The threshold that keeps the false-alarm rate; None where the calibration images allow none."""
        try:
            return float(self.calibration_scores[self._conformal_rank() - 1])
        except (StateError, CalibrationError):
            return None

    @property
    def percentile_threshold(self) -> float | None:
        """The seeds' threshold, a percentile of the training scores; None without training scores."""
        scores = self.training_scores
        if not scores.size:
            return None
        # between a number and infinity there is nothing to interpolate, only NaN
        method: Literal["linear", "higher"] = "linear" if np.isfinite(scores).all() else "higher"
        return float(np.percentile(scores, self.settings.train_percentile, method=method))

    def p_values(self, scores: npt.ArrayLike) -> Scores:
        """Conformal p-values (N,) of the scores (N,); NaN where there are no calibration images."""
        if not self.calibration_scores.size:
            return np.full(_scores(scores, "score").shape, np.nan)
        return p_values(self.calibration_scores, scores)

    def ranks(self, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(N,) whole numbers: 1 + how many of the n calibration scores are at or above each score.

        Raises:
            StateError: there are no calibration images.
        """
        self._n_calibration()  # or there is nothing to rank among
        return _ranks(self.calibration_scores, scores)

    def discovery_threshold(self, scores: npt.ArrayLike, rate: float) -> float:
        """The threshold above which, among these images' scores (N,), at most `rate` are normal on average.

        It depends on all the scores: the more of them lie far out, the lower it is. Infinite where none is flagged.

        Raises:
            StateError: there are no calibration images.
        """
        n = self._n_calibration()
        largest = discoveries(self.ranks(scores), n, rate)
        if largest == 0:
            return math.inf
        return float(self.calibration_scores[n - largest]) if largest <= n else -math.inf

    def too_few_for(self, count: int, rate: float) -> str | None:
        """What limits `discovery_threshold` among `count` images; None where a single one can be flagged."""
        n = int(self.calibration_scores.size)
        fewest = fewest_discoveries(count, n, rate)
        if fewest <= 1:
            return None
        if fewest > count:
            return (
                f"{n} calibration images are too few for a false discovery rate of {rate:g}: no image can be flagged, "
                f"however odd; it takes at least {fewest_discoveries(1, 0, rate) - 1} (oddlens calibrate)"
            )
        alone = fewest_discoveries(count, 0, rate) - 1
        return (
            f"with {n} calibration images and {count} to judge, a false discovery rate of {rate:g} flags none unless "
            f"{fewest} of them lie beyond all calibration scores; a single one can be flagged from {alone} calibration "
            "images on"
        )

    def labels(self, scores: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """Scores (N,) -> labels (N,): 1 (anomaly) above the threshold, else 0 (normal)."""
        return (_scores(scores, "score") > self.threshold).astype(np.int8)

    def promise(self) -> str:
        """One sentence: what the threshold promises about new normal images, and on what grounds.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        if self.settings.method == "train_percentile":
            return self._no_promise()
        rank, n, confidence = self._conformal_rank(), self._n_calibration(), self.settings.confidence
        if self.threshold == math.inf:
            return f"No image can be flagged: the threshold, the score at rank {rank} of {_images(n)}, is infinite."
        rate = _percent(self.false_alarm_rate)
        if self.settings.false_alarm_rate is None and self.false_alarm_rate > DEFAULT_RATE:
            rate = f"{_percent(self.false_alarm_rate, 2, ROUND_CEILING)} (the smallest that can be promised)"
        sure = "on average over calibrations" if confidence is None else f"with {_percent(confidence)} confidence"
        low, high = (_percent(end, 3) for end in realised_range(n, rank))
        return (
            f"At most {rate} of normal images are flagged, {sure}, as long as they are like the {_images(n)}; "
            f"the realised rate lies between {low} and {high} in 95% of such calibrations."
        )

    def told(self) -> list[str]:
        """What the decision promises and, where there are calibration images, the best that they can: sentences.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        return [self.promise(), *([self.outlook()] if self.calibration_scores.size else [])]

    def outlook(self) -> str:
        """One sentence: the best that these calibration images can promise, and what a stricter promise takes.

        Raises:
            StateError: there are no calibration images, or no rate was asked for and none can be chosen.
        """
        n, stricter = self._n_calibration(), self.stricter_rate
        best = _percent(smallest_rate(n), 2, ROUND_CEILING)
        sure = _percent(smallest_rate(n, SURE), 2, ROUND_CEILING)
        needed = images_needed(stricter, self.settings.confidence)
        more = f"takes {needed}, {needed - n} more" if needed > n else f"takes {needed}: change it without training"
        asked = "" if self.settings.confidence is None else f" with {_percent(self.settings.confidence)} confidence"
        return (
            f"{_images(n)} can promise {best} at best on average, {sure} with {_percent(SURE)} confidence; "
            f"{_percent(stricter)}{asked} {more}."
        )

    @property
    def stricter_rate(self) -> float:
        """Half of the present false-alarm rate: the next one to think of."""
        return float(Decimal(str(self.false_alarm_rate)) / 2)

    def guarantee(self) -> dict[str, object]:
        """What `promise` and `outlook` say, in numbers: for JSON.

        Raises:
            StateError, CalibrationError: as `threshold`.
        """
        n, confidence = int(self.calibration_scores.size), self.settings.confidence
        promised = self.settings.method == "conformal"
        return {
            "kind": "none" if not promised else "on average" if confidence is None else "with confidence",
            "confidence": confidence,
            "false_alarm_rate": self.false_alarm_rate,
            "realised_range": list(realised_range(n, self._conformal_rank())) if promised else None,
            "smallest_rate": smallest_rate(n, confidence) if n else None,
            "stricter_rate": self.stricter_rate,
            "more_images_for_it": max(0, images_needed(self.stricter_rate, confidence) - n),
        }

    def _no_promise(self) -> str:
        about = f"The threshold is percentile {self.settings.train_percentile:g} of the training scores"
        if not self.calibration_scores.size:
            return f"{about}, which promises nothing."
        flagged = _percent(float(np.mean(self.calibration_scores > self.threshold)), 3)
        return f"{about}, which promises nothing; it flags {flagged} of {_images(self._n_calibration())}."

    def _conformal_rank(self) -> int:
        return promised_rank(self._n_calibration(), self.false_alarm_rate, self.settings.confidence)

    def _n_calibration(self) -> int:
        if not self.calibration_scores.size:
            raise StateError(
                "a conformal threshold needs held-out normal images and there are none: "
                "run calibrate with normal images that were not trained on"
            )
        return int(self.calibration_scores.size)


@contextmanager
def _fifty_digits() -> Iterator[None]:
    """Decimal arithmetic that neither rounds before the fiftieth digit nor underflows."""
    with localcontext(Context(prec=50, Emin=MIN_EMIN, Emax=MAX_EMAX)):
        yield


def _doubt(confidence: float) -> Decimal:
    _check_share("confidence", confidence)
    return 1 - Decimal(str(confidence))


def _places(n: int, rate: float, confidence: float | None) -> int:
    """The threshold's place from the top (1 = largest score); 0 where n scores cannot promise `rate`."""
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


def _ranks(ordered: Scores, scores: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """1 + how many of the calibration scores, in rising order, are at or above each score."""
    below = np.searchsorted(ordered, _scores(scores, "score"), side="left")
    return np.asarray(1 + len(ordered) - below, dtype=np.int64)


def _scores(values: npt.ArrayLike, what: str) -> Scores:
    scores = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(np.isnan(scores))
    if wrong.size:
        raise CalibrationError(f"{what} {wrong[0]} of {scores.size} is NaN: the detector is broken, fit it again")
    return scores


def _check_share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise SettingsError(f"the {what} must lie between 0 and 1, got {value}: 1% is written 0.01")


def _images(n: int) -> str:
    return f"{n} held-out normal image{'' if n == 1 else 's'}"


def _percent(share: float, digits: int | None = None, rounding: str = ROUND_HALF_EVEN) -> str:
    """A share as percent, rounded to so many significant digits, else with the digits that it was given."""
    percent = Decimal(str(share)) * 100
    percent = Context(digits, rounding).plus(percent) if digits else percent.normalize()
    return f"{percent:f}%"
