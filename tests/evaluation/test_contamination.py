"""Scores of how unusual each normal image is, by detectors that were not trained on it."""

from __future__ import annotations

import numpy as np
import pytest
from wave_images import wave_images

from oddlens.data.image_set import ImageSet
from oddlens.errors import DataError
from oddlens.evaluation import contamination


@pytest.mark.parametrize(("count", "seconds"), [(50, 10), (500, 50), (50_000, 120)])
def test_default_budget_grows_with_the_images_within_limits(
    count: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contamination, "has_backbone", lambda: False)
    assert contamination.default_budget(count) == seconds


def test_default_budget_of_a_backbone_is_a_limit_for_slow_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "has_backbone", lambda: True)
    assert contamination.default_budget(50) == contamination.default_budget(50_000) == 120


def test_robust_zscore_is_zero_at_the_median_and_finite_for_equal_scores() -> None:
    assert contamination.robust_zscore(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).tolist()[2] == 0
    assert np.isfinite(contamination.robust_zscore(np.full(9, 2.0))).all()


def test_robust_zscore_is_the_distance_in_standard_deviations_of_normal_scores() -> None:
    scores = np.append(np.random.default_rng(0).normal(5, 2, 20_000), [1e6] * 100)
    zscores = contamination.robust_zscore(scores)
    assert zscores[:20_000].std() == pytest.approx(1, abs=0.03)
    assert (zscores[20_000:] > 1000).all()


def test_images_that_are_copies_of_each_other_cannot_be_split() -> None:
    copies = ImageSet.from_array(np.repeat(wave_images(1, 120, 0), 50, axis=0))
    with pytest.raises(DataError, match="the 50 images cannot be split into two halves"):
        contamination.anomaly_zscores(copies, budget=1)
