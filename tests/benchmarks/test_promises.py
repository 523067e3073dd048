"""Tests of the rates over repeated calibrations."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import promises
import pytest
from promises import Pool

from oddlens.data.image_set import ImageSet


def pool(n_normal: int = 400, per_group: int = 1) -> Pool:
    """A pool of standard normal scores; a fifth are test images, and anomalies score far higher."""
    rng = np.random.default_rng(0)
    return Pool(
        training=rng.standard_normal(1000), normal=rng.standard_normal(n_normal),
        groups=np.arange(n_normal) // per_group, tested=np.arange(n_normal) % 5 == 0,
        anomalous=rng.standard_normal(300) + 20,
    )  # fmt: skip


def test_realized_rates_average_to_the_requested_rate() -> None:
    rates = promises.redrawn_rates(pool(), 0.05, seed=0, by_group=False)
    assert rates is not None
    assert len(rates) == promises.REPEATS
    assert np.mean(rates) == pytest.approx(0.05, abs=0.01)


def test_a_detector_without_training_scores_has_no_percentile() -> None:
    without = pool()._replace(training=np.empty(0))
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
    scores = pool()._replace(training=np.arange(101.0), normal=np.array([94.0, 95.0, 96.0, 97.0]))
    assert promises.train_percentile_rate(scores, 0.05) == 0.5


def test_images_of_one_part_share_a_group() -> None:
    images = ImageSet.from_array(np.zeros((3, 8, 8, 1), dtype=np.uint8))
    assert promises.groups_of(images, None).tolist() == [0, 1, 2]
    parts = dict(zip((Path(name).name for name in images.names), ("b", "a", "b"), strict=True))
    assert promises.groups_of(images, parts).tolist() == [1, 0, 1]


@pytest.mark.parametrize("show", ["alarms", "discoveries"])
def test_a_pool_is_computed_once_and_read_from_the_cache(
    show: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(show=show, parts=None, budget="30s", seed=0, data=None, cache=tmp_path)
    first = promises.load_pool("digits:0", "dictionary", options)
    monkeypatch.setattr(promises, "compute_pool", lambda *arguments: pytest.fail("it was computed again"))
    again = promises.load_pool("digits:0", "dictionary", options)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert first.tested.sum() > 0
    assert len(first.normal) == len(first.groups) == len(first.tested)
    assert (len(first.anomalous) > 0) == (show == "discoveries")
