"""Tests of the rates over repeated calibrations."""

from __future__ import annotations

import dataclasses

import numpy as np
import promises
import pytest
from pools import Pool


def pool(n_normal: int = 400, per_group: int = 1) -> Pool:
    """A pool of standard normal scores; a fifth are test images, and anomalies score far higher."""
    rng = np.random.default_rng(0)
    return Pool(
        training=rng.standard_normal(1000), normal=rng.standard_normal(n_normal),
        groups=np.arange(n_normal) // per_group, tested=np.arange(n_normal) % 5 == 0,
        anomalous=rng.standard_normal(300) + 20, changed={"blur": rng.standard_normal(n_normal) + 10},
    )  # fmt: skip


def test_realized_rates_average_to_the_requested_rate() -> None:
    rates = promises.redrawn_rates(pool(), 0.05, seed=0, by_group=False)
    assert rates is not None
    assert len(rates) == promises.REPEATS
    assert np.mean(rates) == pytest.approx(0.05, abs=0.01)


def test_a_detector_without_training_scores_has_no_percentile() -> None:
    without = dataclasses.replace(pool(), training=np.empty(0))
    assert [row[-1] for row in promises.false_alarms(without, 0)] == ["–", "–"]
    assert "–" not in [row[-1] for row in promises.false_alarms(pool(), 0)]


def test_too_small_calibration_sets_give_no_rates() -> None:
    assert promises.redrawn_rates(pool(100), 0.01, seed=0, by_group=False) is None
    assert promises.on_test_images(pool(100), 0.01) == promises.format_rates(None) == "too few"


def test_groups_are_never_split_and_count_by_their_highest_score() -> None:
    grouped = pool(400, per_group=10)  # 20 groups in each half
    assert promises.redrawn_rates(grouped, 0.05, seed=0, by_group=False) is not None
    assert promises.redrawn_rates(grouped, 0.04, seed=0, by_group=True) is None


def test_mean_rate_has_a_normal_interval_of_the_mean() -> None:
    assert str(promises.mean_rate([0.0, 0.02] * 50)) == "1.00% (0.80% to 1.20%)"


def test_training_percentile_is_applied_to_unseen_normal_images() -> None:
    scores = dataclasses.replace(pool(), training=np.arange(101.0), normal=np.array([94.0, 95.0, 96.0, 97.0]))
    assert promises.train_percentile_rate(scores, 0.05) == 0.5


def test_strong_drift_is_detected_after_the_change_only() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(promises.CALIBRATION + promises.STREAM)
    delay = promises.alarm(normal, normal + 10, rng, number=0)
    assert delay is not None
    assert 0 <= delay < promises.WITHIN
    assert promises.alarm(normal, None, rng, number=0) is None
