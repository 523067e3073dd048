"""The scores that a page carries, which images it shows, and the decisions that its threshold can move to."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.schemes import LEAVE_ONE_OUT
from oddlens.detector.verdicts import Verdicts
from oddlens.reporting import score_data
from oddlens.reporting.score_data import ScoredImages, decision_ladder, page_data


def decisions(n: int = 199, scheme: Any = None, **settings: Any) -> GroupedDecision:
    calibration = np.linspace(0, 1, n)
    more = {} if scheme is None else {"scheme": scheme}
    return GroupedDecision({UNGROUPED: Decision(DecisionSettings(**settings), calibration, calibration, **more)})


def scored(n_normal: int, n_anomalous: int, decision: GroupedDecision | None = None, seed: int = 0) -> ScoredImages:
    rng, decision = np.random.default_rng(seed), decision or decisions()
    scores = np.concatenate([rng.uniform(0, 1, n_normal), rng.uniform(0.5, 3, n_anomalous)])
    labels = np.repeat([0, 1], [n_normal, n_anomalous]).astype(np.int8)
    n = len(scores)
    verdicts = Verdicts(
        tuple(f"{i}.png" for i in range(n)), scores, decision.p_values(scores), decision.thresholds(n), labels
    )
    kinds = ["good" if label == 0 else f"kind_{i % 3}" for i, label in enumerate(labels)]
    return ScoredImages.sort(verdicts, kinds, labels, np.ones(n, dtype=bool), (), decision)


def test_images_are_sorted_by_p_value_and_then_by_score() -> None:
    images = scored(50, 50)
    assert (np.diff(images.p_values) >= 0).all()
    assert (np.diff(images.scores) <= 0).all()
    assert images.names[0] == f"{images.index[0]}.png"
    assert images.kind_names == ["good", "kind_0", "kind_1", "kind_2"]


def test_without_calibration_images_they_are_sorted_by_score() -> None:
    by_percentile = GroupedDecision(
        {UNGROUPED: Decision(DecisionSettings(method="train_percentile"), np.empty(0), np.linspace(0, 1, 50))}
    )
    images = scored(20, 20, by_percentile)
    assert np.isnan(images.p_values).all()
    assert (np.diff(images.scores) <= 0).all()
    assert page_data(images)["rates"] == []
    assert images.borderline.dtype == bool


@pytest.mark.parametrize(
    "decision",
    [
        decisions(199),
        decisions(62),
        decisions(400, confidence=0.95, false_alarm_rate=0.02),
        decisions(99, scheme=LEAVE_ONE_OUT),
        decisions(150, method="train_percentile"),
    ],
    ids=["held out", "few", "with confidence", "leave-one-out", "percentile"],
)
def test_each_rate_of_the_ladder_gives_its_threshold(decision: GroupedDecision) -> None:
    ladder, part = decision_ladder(decision), decision.single
    assert len(ladder) > 10
    for rate, (threshold,) in ladder:
        assert part.calibration.threshold(float(rate), part.settings.confidence) == threshold
    thresholds = [threshold for _, (threshold,) in ladder]
    assert (np.diff(thresholds) < 0).all(), "a higher rate, a lower threshold"
    lowest = part.calibration.min_rate(part.settings.confidence)
    assert thresholds[0] == part.calibration.threshold(lowest, part.settings.confidence)
    assert all("e" not in rate for rate, _ in ladder)


def test_of_rates_with_the_same_threshold_the_shortest_is_in_the_ladder() -> None:
    assert [rate for rate, _ in decision_ladder(decisions(99))][:3] == ["0.01", "0.02", "0.03"]


def test_groups_move_together_each_to_its_threshold_for_the_rate() -> None:
    parts = {name: decisions(n).single for name, n in (("a", 99), ("b", 49))}
    ladder = decision_ladder(GroupedDecision(parts))
    assert ladder[0][0] == "0.02", "the smaller group guarantees no lower rate"
    for rate, thresholds in ladder:
        assert thresholds == [part.calibration.threshold(float(rate), None) for part in parts.values()]


def test_a_small_set_is_shown_whole() -> None:
    np.testing.assert_array_equal(scored(30, 30).select(600), np.arange(60))
    assert len(scored(0, 0).select(600)) == 0


def test_misses_false_alarms_and_borderline_images_come_before_the_others() -> None:
    images = scored(3000, 300)
    places = images.select(300)
    wrong = images.flagged != (images.labels == 1)
    assert len(set(places.tolist())) == 300
    assert set(np.flatnonzero(wrong)) <= set(places.tolist()), "all mistakes have room"
    assert (images.borderline & ~wrong)[places].sum() >= 60
    assert (~images.borderline & ~wrong)[places].sum() >= 30


def test_very_many_misses_leave_room_and_are_an_even_sample() -> None:
    images = scored(2000, 8000, decisions(199, false_alarm_rate=0.01))
    images = ScoredImages(**{**vars(images), "thresholds": np.full(10_000, 2.9)})
    places = images.select(600)
    missed = images.labels[places] == 1
    missed &= ~images.flagged[places]
    assert 300 <= missed.sum() <= 540
    assert len(places) == 600
    positions = np.flatnonzero((images.labels == 1) & ~images.flagged)
    chosen = np.searchsorted(positions, places[missed])
    assert np.diff(chosen).max() <= 2 * np.diff(chosen).min() + 2


def test_the_data_has_every_score_exactly_and_names_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_data, "MAX_NAMES", 50)
    images = scored(60, 60)
    data = page_data(images)
    scores = np.frombuffer(base64.b64decode(data["scores"]), dtype="<f8")
    np.testing.assert_array_equal(scores, images.scores)
    assert len(data["names"]) == 50
    kinds = np.frombuffer(base64.b64decode(data["kind"]), dtype="<u2")
    assert [data["kinds"][kind] for kind in kinds] == list(images.kinds)


def test_infinite_thresholds_have_a_place_at_the_end_of_the_axis() -> None:
    images = scored(50, 50)
    images = ScoredImages(**{**vars(images), "thresholds": np.full(100, np.inf)})
    assert np.isfinite(images.axis[:2]).all()
    assert images.places(np.array([np.inf, -np.inf])).tolist() == [1, 0]
    assert not images.flagged.any()


def test_ten_thousand_images_take_less_than_a_megabyte_without_pictures() -> None:
    data = page_data(scored(9000, 1000))
    assert sum(len(str(value)) for value in data.values()) < 1_000_000
