"""The brightness of a lot: within its level, noticed where images are flagged as well, and left out where unknown."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.exceedance import lot_p_value
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.light import MANY_FLAGGED, LightCount, LightTest
from oddlens.conformal.lot import LEVEL, Lot, LotTest

Values = npt.NDArray[np.float64]
REPEATS = 2000
UNITS = np.linspace(0.4, 0.6, 99)  # brightness of calibration images


def decision(scores: npt.ArrayLike = range(99), brightness: Values = UNITS) -> Decision:
    return Decision(DecisionSettings(), np.asarray(scores, float), np.empty(0), brightness=np.sort(brightness))


def run_test(
    scores: npt.ArrayLike, brightness: Values | None, part: Decision | None = None, max_anomalous: float = 0.1
) -> LotTest:
    lot = Lot(GroupedDecision({UNGROUPED: decision() if part is None else part}), max_anomalous)
    lot.add(scores, (), brightness)
    result = lot.test()
    assert result is not None
    return result


def lot_scores(count: int, n_flagged: int) -> Values:
    """Scores of which as many are flagged by `decision()`, and as few as possible are above the median."""
    return np.where(np.arange(count) < n_flagged, 1e3, 0.0)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_other_light_is_reported_where_many_images_are_flagged(factor: float) -> None:
    light = np.full(50, factor * 0.5)
    result = run_test(lot_scores(50, 4), light)
    assert result.shifted
    assert result.light is not None
    assert result.light.counts
    assert result.light.change == pytest.approx(factor - 1)
    assert result.p_value == 2 * result.light.p_value == 2 * 2 * lot_p_value(50, 50, 99)
    few = run_test(lot_scores(50, 1), light)
    assert not few.shifted
    assert few.light is not None
    assert (few.light.counts, few.light.p_value) == (False, result.light.p_value)


def test_many_flagged_images_are_more_than_a_multiple_of_the_guaranteed_rate() -> None:
    n_allowed = int(MANY_FLAGGED * 0.01 * 100)
    counts = []
    for n_flagged in (n_allowed, n_allowed + 1):
        light = run_test(lot_scores(100, n_flagged), np.full(100, 0.7)).light
        assert light is not None
        counts.append(light.counts)
    assert counts == [False, True]


def test_the_scores_count_as_well(rng: np.random.Generator) -> None:
    above = np.full(50, 60.0)
    assert run_test(above, rng.permutation(UNITS)[:50]).p_value == min(1.0, 2 * lot_p_value(50, 50, 99))
    assert run_test(above, None).p_value == lot_p_value(50, 50, 99)


@pytest.mark.parametrize(("n", "m"), [(30, 50), (99, 30)])
def test_brightness_differs_by_chance_as_often_as_its_p_value_says(n: int, m: int, rng: np.random.Generator) -> None:
    lights = [
        run_test(np.zeros(m), rng.normal(size=m), decision(*rng.normal(size=(2, n))), 0.0) for _ in range(REPEATS)
    ]
    p_values = np.array([test.light.p_value for test in lights if test.light is not None])
    assert len(p_values) == REPEATS
    for level in (0.01, 0.05, 0.2):
        noise = 3 * math.sqrt(level * (1 - level) / REPEATS)
        assert 0.3 * level - noise < (p_values <= level).mean() < level + noise, level


@pytest.mark.parametrize("n_flagged", [0, 6])
def test_lots_under_the_same_light_are_reported_as_often_as_the_level_allows(
    n_flagged: int, rng: np.random.Generator
) -> None:
    shifted = 0
    for _ in range(REPEATS):
        scores = np.r_[np.full(n_flagged, 1e3), rng.normal(size=60 - n_flagged)]
        shifted += run_test(scores, rng.normal(size=60), decision(*rng.normal(size=(2, 99)))).shifted
    assert shifted / REPEATS <= LEVEL + 3 * math.sqrt(LEVEL / REPEATS)


def test_a_tenth_of_anomalies_that_are_bright_is_no_change_of_light() -> None:
    light = np.r_[np.full(5, 0.99), np.tile(np.quantile(UNITS, [0.25, 0.75]), 23)[:45]]
    result = run_test(lot_scores(50, 5), light)
    assert result.light is not None
    assert result.light.counts
    assert not result.shifted


def test_equal_brightness_is_neither_brighter_nor_darker() -> None:
    result = run_test(lot_scores(50, 10), np.full(50, 0.5), decision(brightness=np.full(99, 0.5)))
    assert result.light is not None
    assert result.light.p_value == 1.0


@pytest.mark.parametrize("brightness", [None, np.r_[np.nan, np.full(49, 0.9)]])
def test_without_the_brightness_of_every_image_the_scores_alone_are_tested(brightness: Values | None) -> None:
    result = run_test(lot_scores(50, 10), brightness)
    assert result.light is None
    assert "brightness" not in result.as_json()


def test_a_detector_without_brightness_tests_the_scores_alone() -> None:
    older = Decision(DecisionSettings(), np.arange(99.0), np.empty(0))
    assert run_test(lot_scores(50, 10), np.full(50, 0.9), older).light is None
    uncalibrated = LightCount(Decision(DecisionSettings(), np.empty(0), np.empty(0), brightness=UNITS))
    uncalibrated.add(np.zeros(50), np.full(50, 0.9))
    assert uncalibrated.test(0.1) is None


def test_a_lot_in_parts_gives_the_same_result(rng: np.random.Generator) -> None:
    scores, brightness = rng.normal(60, 30, 90), rng.normal(0.55, 0.1, 90)
    lot = Lot(GroupedDecision({UNGROUPED: decision()}))
    for rows in np.array_split(np.arange(90), 7):
        lot.add(scores[rows], (), brightness[rows])
    lot.add([], (), None)
    test, whole = lot.test(), run_test(scores, brightness)
    assert test is not None
    assert test.light is not None
    assert whole.light is not None
    assert (test.p_value, test.light.counts) == (whole.p_value, whole.light.counts)
    assert test.light.change == pytest.approx(whole.light.change)


def test_each_group_has_light_of_its_own() -> None:
    lot = Lot(GroupedDecision({"left": decision(), "right": decision(brightness=UNITS + 0.3)}))
    names = ["left"] * 40 + ["right"] * 40
    lot.add(np.tile(lot_scores(40, 4), 2), names, np.full(80, 0.8))
    result = lot.test()
    assert result is not None
    assert {name: group.shifted for name, group in result.groups.items()} == {"left": True, "right": False}
    groups = result.as_json()["groups"]
    assert groups["left"]["brightness"]["change"] == pytest.approx(0.6)
    (sentence,) = result.warnings("the rate")
    assert sentence.startswith("left: These 40 images differ")
    assert "): they are 60.0% brighter on average. " in sentence


def test_black_calibration_images_have_a_change() -> None:
    result = run_test(lot_scores(50, 10), np.full(50, 0.5), decision(brightness=np.zeros(99)))
    assert result.light is not None
    assert np.isfinite(result.light.change)


def test_the_warning_names_the_light_only_where_it_differs() -> None:
    darker = LotTest(60, 0.001, 0.1, light=LightTest(0.0005, -0.0684, counts=True))
    assert "(p = 0.001): they are 6.8% darker on average. " in darker.warnings("the rate")[0]
    assert darker.as_json()["brightness"] == {"p_value": 0.0005, "change": -0.0684}
    alike = LotTest(60, 0.001, 0.1, light=LightTest(0.5, 0.01, counts=True))
    assert "(p = 0.001). Unless" in alike.warnings("the rate")[0]
