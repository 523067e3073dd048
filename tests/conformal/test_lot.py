"""The test of a lot as a whole: exact, within its level for exchangeable images, and loud where they have shifted."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.exceedance import exceedance_p_value, lot_p_value
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.lot import LEVEL, MIN_IMAGES, Lot, LotTest, alarms_p_value, guaranteed_rate
from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT, in_folds
from oddlens.errors import CalibrationError, SettingsError, StateError

Scores = npt.NDArray[np.float64]
REPEATS = 2000


def decisions(*, folds: int = 1, rate: float | None = None, **groups: npt.ArrayLike) -> GroupedDecision:
    """A decision with these calibration scores, for each group or, under the name `calibration`, for all images."""
    settings, scheme = DecisionSettings(false_alarm_rate=rate), in_folds(folds) if folds > 1 else HELD_OUT
    names = {"calibration": UNGROUPED}
    return GroupedDecision(
        {
            names.get(name, name): Decision(settings, np.asarray(scores, dtype=float), np.empty(0), scheme)
            for name, scores in groups.items()
        }
    )


def run_test(scores: npt.ArrayLike, calibration: npt.ArrayLike, max_anomalous: float = 0.1, folds: int = 1) -> LotTest:
    lot = Lot(decisions(calibration=calibration, folds=folds), max_anomalous)
    lot.add(scores)
    result = lot.test()
    assert result is not None
    return result


@pytest.mark.parametrize(("n", "m"), [(30, 50), (99, 30), (500, 400)])
def test_exchangeable_lots_are_reported_as_often_as_the_level_allows(n: int, m: int, rng: np.random.Generator) -> None:
    p_values = np.array([
        run_test(rng.standard_normal(m), rng.standard_normal(n), 0.0).p_value for _ in range(REPEATS)
    ])  # fmt: skip
    for level in (0.01, 0.05, 0.2, 0.5):
        share, noise = (p_values <= level).mean(), 3 * math.sqrt(level * (1 - level) / REPEATS)
        assert 0.4 * level - noise < share < level + noise, level


def test_the_level_is_kept_where_as_many_are_anomalous_as_may_be(rng: np.random.Generator) -> None:
    shifted = 0
    for _ in range(REPEATS):
        lot = rng.standard_normal(60)
        lot[:6] += 100
        shifted += run_test(lot, rng.standard_normal(99)).shifted
    assert shifted / REPEATS <= LEVEL + 3 * math.sqrt(LEVEL / REPEATS)


def test_ties_with_the_median_do_not_count_as_above_it(rng: np.random.Generator) -> None:
    assert run_test(np.ones(50), np.ones(99), 0.0).p_value == 1.0
    coarse = [run_test(rng.integers(0, 3, 50), rng.integers(0, 3, 99), 0.0).shifted for _ in range(REPEATS)]
    assert np.mean(coarse) <= LEVEL


def test_a_shift_that_multiplies_false_alarms_is_noticed_in_lots_of_fifty(rng: np.random.Generator) -> None:
    shifted = [run_test(rng.standard_normal(50) + 1.5, rng.standard_normal(99)).shifted for _ in range(200)]
    assert np.mean(shifted) >= 0.9


def test_lower_scores_are_no_shift(rng: np.random.Generator) -> None:
    assert run_test(rng.standard_normal(50) - 5, rng.standard_normal(99)).p_value == 1.0


def fold_scores(rng: np.random.Generator, count: int, n_folds: int, fold_size: int, shift: float) -> Scores:
    """Scores (N,) of a detector in folds, whose members see the same images through noise of their own.

    As the family does, an image's score is minus the number of images, fold by fold, that reach its score.
    """
    held_out = rng.standard_normal((n_folds, fold_size)) + rng.normal(0, 0.5, (n_folds, fold_size))
    image = rng.standard_normal((count, 1)) + rng.normal(0, 0.5, (count, n_folds)) + shift
    counts: Scores = (held_out[None] >= image[:, :, None]).sum(axis=(1, 2)).astype(np.float64)
    return -counts


@pytest.mark.parametrize("n_folds", [2, 5])
def test_with_folds_the_level_is_kept_and_large_shifts_are_noticed(n_folds: int, rng: np.random.Generator) -> None:
    n = n_folds * 60
    calibration = -np.arange(n, 0, -1.0)

    def shifted_share(shift: float, repeats: int) -> float:
        lots = [fold_scores(rng, 50, n_folds, 60, shift) for _ in range(repeats)]
        return float(np.mean([run_test(lot, calibration, 0.0, n_folds).shifted for lot in lots]))

    assert shifted_share(0.0, 500) <= LEVEL + 3 * math.sqrt(LEVEL / 500)
    assert shifted_share(3.0, 100) >= 0.9


def test_with_folds_an_image_counts_if_fewer_than_half_a_fold_reach_it() -> None:
    """4 folds of 10 images: up to 4 of all 40 may reach an image, so that its rank is at most 5."""
    calibration = -np.arange(40, 0, -1.0)
    assert run_test(np.full(50, -4.0), calibration, 0.0, 4).p_value == lot_p_value(50, 50, 10, 0.0)
    assert run_test(np.full(50, -5.0), calibration, 0.0, 4).p_value == 1.0


def test_near_duplicates_among_the_calibration_images_count_once(rng: np.random.Generator) -> None:
    """30 parts, each photographed nine times: counted as 270 images, the level of 1% would rise to a multiple."""
    parts, shifted = np.repeat(np.arange(30, dtype=np.uint64), 9), 0
    for _ in range(REPEATS):
        scores = rng.standard_normal(30)[parts] + rng.normal(0, 0.1, 270)
        part = Decision(DecisionSettings(), scores, np.empty(0), clusters=parts)
        lot = Lot(GroupedDecision({UNGROUPED: part}), 0.0)
        lot.add(rng.standard_normal(60) + rng.normal(0, 0.1, 60))
        result = lot.test()
        assert result is not None
        shifted += result.shifted
    assert shifted / REPEATS <= LEVEL + 3 * math.sqrt(LEVEL / REPEATS)


def test_leave_one_out_scores_count_as_half_as_many_units() -> None:
    part = Decision(DecisionSettings(), np.arange(60.0), np.empty(0), LEAVE_ONE_OUT)
    lot = Lot(GroupedDecision({UNGROUPED: part}), 0.0)
    lot.add([*np.full(40, 30.0), *np.full(10, 29.0), *np.full(10, 30.5)])
    result = lot.test()
    assert result is not None
    assert result.p_value == lot_p_value(10, 60, 30, 0.0), "above the median are those that fewer than 30 of 60 reach"


def test_smaller_lots_and_detectors_without_calibration_are_not_tested() -> None:
    lot = Lot(decisions(calibration=np.arange(99.0)))
    lot.add(np.full(MIN_IMAGES - 1, 1e3))
    assert lot.test() is None
    lot.add([1e3])
    assert lot.test() is not None
    percentile = Decision(DecisionSettings(method="train_percentile"), np.empty(0), np.arange(100.0))
    without = Lot(GroupedDecision({UNGROUPED: percentile}))
    without.add(np.full(100, 1e3))
    assert without.test() is None


def test_a_lot_in_parts_gives_the_same_result(rng: np.random.Generator) -> None:
    scores, lot = rng.standard_normal(90) + 0.5, Lot(decisions(calibration=rng.standard_normal(99)))
    whole = run_test(scores, lot.decisions.single.calibration_scores)
    for part in np.array_split(scores, 7):
        lot.add(part)
    assert lot.test() == whole
    lot.add([])
    assert lot.test() == whole


def test_each_group_is_a_lot_of_its_own(rng: np.random.Generator) -> None:
    lot = Lot(decisions(left=rng.standard_normal(99), right=rng.standard_normal(99), far=rng.standard_normal(99)))
    scores = np.concatenate([rng.standard_normal(150), rng.standard_normal(40) + 4, np.full(29, 9.0)])
    lot.add(scores, ["left"] * 150 + ["right"] * 40 + ["far"] * 29)
    result = lot.test()
    assert result is not None
    assert result.as_json()["n"] == 190, "a group of 29 images is left out"
    assert result.as_json()["untested_groups"] == {"far": 29}
    assert {name: group.shifted for name, group in result.groups.items()} == {"left": False, "right": True}
    assert result.shifted
    n_above = int((scores[150:190] > np.median(lot.decisions.parts["right"].calibration_scores)).sum())
    assert result.p_value == result.groups["right"].p_value == 2 * lot_p_value(n_above, 40, 99)
    (sentence,) = result.warnings("the false-alarm rate of 1%")
    assert sentence.startswith("right: These 40 images differ from the calibration images as a whole (p = ")


def test_many_groups_together_keep_the_level(rng: np.random.Generator) -> None:
    names = [f"group {i}" for i in range(10)]
    shifted = 0
    for _ in range(300):
        parts = {name: decisions(calibration=rng.standard_normal(30)).single for name in names}
        lot = Lot(GroupedDecision(parts), 0.0)
        lot.add(rng.standard_normal(400), names * 40)
        result = lot.test()
        assert result is not None
        shifted += result.shifted
    assert shifted / 300 <= LEVEL + 3 * math.sqrt(LEVEL / 300)


def test_images_without_a_group_or_of_an_unknown_one_are_refused() -> None:
    lot = Lot(decisions(left=np.arange(99.0)))
    with pytest.raises(StateError, match="give the group of each image"):
        lot.add(np.zeros(40))
    with pytest.raises(SettingsError, match="group 'top' has no calibration images"):
        lot.add(np.zeros(40), ["top"] * 40)


def test_infinite_scores_are_sorted_and_nan_is_refused() -> None:
    assert run_test(np.full(50, np.inf), np.arange(99.0)).shifted
    assert run_test(np.full(50, -np.inf), np.arange(99.0)).p_value == 1.0
    assert run_test(np.full(50, np.inf), np.full(99, np.inf)).p_value == 1.0
    with pytest.raises(CalibrationError, match="score 1 of 2 is NaN"):
        Lot(decisions(calibration=np.arange(99.0))).add([0.0, np.nan])


@pytest.mark.parametrize("share", [-0.1, 1.0, 10.0, math.nan, math.inf])
def test_a_share_outside_of_its_range_is_refused_before_anything_is_counted(share: float) -> None:
    with pytest.raises(SettingsError, match=r"from 0 to below 1, got .*: write 10% as 0\.1 \(--max-anomalous\)"):
        Lot(decisions(calibration=np.arange(99.0)), share)


def test_the_warning_says_what_no_longer_holds_and_what_to_do() -> None:
    assert LotTest(60, 0.02, 0.1).warnings("the rate") == []
    assert LotTest(60, 0.000312, 0.1).warnings("the false-alarm rate of 1%", option="--max-anomalous") == [
        "These 60 images differ from the calibration images as a whole (p = 0.00031). Unless more than 10% of them are "
        "anomalous (--max-anomalous), the false-alarm rate of 1% is not guaranteed for them: recalibrate with `oddlens "
        "calibrate` on normal images from the same source, or fit again."
    ]
    (known,) = LotTest(60, 0.01, 0.0).warnings("the rate", "normal test images")
    assert known.startswith("These 60 normal test images differ")
    assert "(p = 0.01). So the rate is not guaranteed for them: " in known


def test_the_guaranteed_rate_is_the_one_in_use() -> None:
    assert guaranteed_rate(decisions(calibration=np.arange(62.0))) == "the false-alarm rate of 1.59%"
    assert guaranteed_rate(decisions(calibration=np.arange(999.0), rate=0.002)) == "the false-alarm rate of 0.2%"
    assert guaranteed_rate(decisions(calibration=np.arange(62.0)), 0.05) == "the false discovery rate of 5%"


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_false_alarms_are_counted_as_images_above_the_unit_of_the_threshold(
    rate: float, confidence: float | None, rng: np.random.Generator
) -> None:
    settings = DecisionSettings(false_alarm_rate=rate, confidence=confidence)
    decision = Decision(settings, rng.normal(size=200), np.empty(0))
    scores = rng.normal(0.5, 1, 40)
    rank = int((decision.calibration_scores >= decision.threshold).sum())
    expected = exceedance_p_value(int((scores > decision.threshold).sum()), 40, 200, rank)
    assert alarms_p_value(GroupedDecision({UNGROUPED: decision}), scores) == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.mark.parametrize(("n", "m", "rate"), [(62, 20, None), (99, 50, 0.05), (19, 200, 0.3)])
def test_by_chance_false_alarms_are_as_rare_as_their_p_value(
    n: int, m: int, rate: float | None, rng: np.random.Generator
) -> None:
    p_values = np.array(
        [
            alarms_p_value(decisions(calibration=rng.normal(size=n), rate=rate), rng.normal(size=m))
            for _ in range(REPEATS)
        ],
        dtype=float,
    )
    for level in (0.01, 0.1, 0.5):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / REPEATS)
    assert len(np.unique(p_values)) > 2


def test_many_false_alarms_are_noticed_and_none_are_no_evidence(rng: np.random.Generator) -> None:
    part = decisions(calibration=np.arange(62.0))
    four = alarms_p_value(part, [100.0] * 4 + [1.0] * 16)
    assert four == exceedance_p_value(4, 20, 62, 1)
    assert four is not None
    assert four < LEVEL
    assert alarms_p_value(part, rng.normal(size=20)) == 1.0
    assert alarms_p_value(part, np.full(10, 61.0)) == 1.0, "an image at the threshold is normal"


def test_false_alarms_of_groups_are_counted_apart() -> None:
    both = decisions(left=np.arange(50.0), right=np.arange(99.0))
    result = alarms_p_value(both, [100.0] * 5, ["left", "left", "right", "left", "right"])
    assert result == pytest.approx(2 * exceedance_p_value(3, 3, 50, 1))
    assert alarms_p_value(both, [100.0, 100.0], ["right", "right"]) == pytest.approx(exceedance_p_value(2, 2, 99, 1))


def test_where_calibration_images_depend_on_each_other_the_probability_of_false_alarms_is_not_known() -> None:
    scores, settings = np.arange(60.0), DecisionSettings(false_alarm_rate=0.1)
    parts = [
        Decision(settings, scores, np.empty(0), LEAVE_ONE_OUT),
        Decision(settings, scores, np.empty(0), in_folds(2)),
        Decision(DecisionSettings(method="train_percentile"), scores, scores),
        Decision(settings, scores[:3], np.empty(0)),  # too few for this rate
        Decision(DecisionSettings(), np.empty(0), np.empty(0)),
    ]
    for part in parts:
        assert alarms_p_value(GroupedDecision({UNGROUPED: part}), np.full(20, 100.0)) is None
    assert alarms_p_value(decisions(calibration=scores), []) is None


def test_near_duplicates_do_not_make_false_alarms_look_unlikely(rng: np.random.Generator) -> None:
    """Photographs of one part, whose scores are alike, are one piece of evidence."""
    settings, p_values = DecisionSettings(false_alarm_rate=0.1), []
    for _ in range(REPEATS):
        scores = np.repeat(rng.normal(size=40), 3) + 0.1 * rng.normal(size=120)
        decision = Decision(settings, scores, np.empty(0), HELD_OUT, np.arange(120) // 3)
        new = rng.normal(size=30) + 0.1 * rng.normal(size=30)
        p_values.append(alarms_p_value(GroupedDecision({UNGROUPED: decision}), new))
    found = np.array(p_values, dtype=float)
    for level in (0.01, 0.1):
        assert (found <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / REPEATS)
    assert (found <= 0.1).mean() > 0.02
