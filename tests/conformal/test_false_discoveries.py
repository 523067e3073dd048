"""Many images at once: the false discovery rate among those that are flagged."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import benjamini_hochberg_rank, min_rejections
from oddlens.errors import SettingsError, StateError


def decided(calibration: np.ndarray) -> Decision:
    return Decision(DecisionSettings(), calibration, np.empty(0))


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
def test_it_is_benjamini_and_hochberg_in_exact_arithmetic(rate: float, rng: np.random.Generator) -> None:
    for _ in range(200):
        n, count = int(rng.integers(1, 60)), int(rng.integers(1, 40))
        ranks = rng.integers(1, rng.integers(2, n + 3), count).clip(max=n + 1)
        p_values = sorted(Fraction(int(rank), n + 1) for rank in ranks)
        places = [i for i, p in enumerate(p_values, 1) if p <= Fraction(str(rate)) * i / count]
        expected = int(p_values[places[-1] - 1] * (n + 1)) if places else 0
        assert benjamini_hochberg_rank(ranks, n, rate) == expected


def test_flagged_are_those_above_the_threshold_ties_or_not(rng: np.random.Generator) -> None:
    for _ in range(100):
        calibration = rng.integers(0, 12, 40).astype(float)
        scores = rng.integers(5, 18, 30).astype(float)
        decision = decided(calibration)
        largest = benjamini_hochberg_rank(decision.ranks(scores), 40, 0.2)
        flagged = scores > decision.discovery_threshold(scores, 0.2)
        assert np.array_equal(flagged, decision.ranks(scores) <= largest)


def test_the_share_of_normal_images_among_the_flagged_is_kept(rng: np.random.Generator) -> None:
    shares = []
    for _ in range(300):
        scores = np.concatenate([rng.normal(size=190), rng.normal(4, 1, 10)])
        flagged = scores > decided(rng.normal(size=999)).discovery_threshold(scores, 0.1)
        shares.append(flagged[:190].sum() / max(1, flagged.sum()))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > 0.04  # not by flagging nothing


def test_too_few_calibration_images_flag_nothing_and_it_is_known_how_many_it_takes(rng: np.random.Generator) -> None:
    scores = np.full(100, 9.0)
    assert min_rejections(100, 18, 0.05) > 100
    assert decided(rng.normal(size=18)).discovery_threshold(scores, 0.05) == np.inf
    assert min_rejections(100, 19, 0.05) == 100
    assert (scores > decided(rng.normal(size=19)).discovery_threshold(scores, 0.05)).all()
    for n, beyond in ((199, 10), (999, 2)):
        assert min_rejections(100, n, 0.05) == beyond
        calibration = rng.normal(size=n)
        for count, any_flagged in ((beyond, True), (beyond - 1, False)):
            mixed = np.concatenate([np.full(count, 9.0), np.full(100 - count, -9.0)])
            assert (mixed > decided(calibration).discovery_threshold(mixed, 0.05)).any() == any_flagged


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="false discovery rate must lie between 0 and 1"):
        benjamini_hochberg_rank([1], 9, 1.0)
    with pytest.raises(StateError, match="run calibrate"):
        decided(np.empty(0)).discovery_threshold(np.ones(3), 0.05)
