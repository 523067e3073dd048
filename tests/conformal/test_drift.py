"""Drift detection: bets that gain only when the stream changes, and a state that resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]  # scikit-learn needs it anyway

from oddlens.conformal import drift
from oddlens.conformal.drift import DriftWatch
from oddlens.errors import ArtifactError, CalibrationError, StateError

Rng = np.random.Generator


def names(count: int) -> list[str]:
    return [f"{i}.png" for i in range(count)]


def simulate(rng: Rng, before: int, after: int, shift: float, n: int = 200, seed: int = 0) -> DriftWatch:
    stream = rng.normal(size=before + after) + np.repeat([0, shift], [before, after])
    watch = DriftWatch(rng.normal(size=n), seed=seed)
    watch.update(names(len(stream)), stream)
    return watch


def test_bets_are_densities() -> None:
    grid = (np.arange(200_000) + 0.5) / 200_000
    densities = np.array([drift.bet_densities(p) for p in grid[::20]])
    assert (densities > 0).all()
    assert densities.mean(axis=0) == pytest.approx(1, abs=0.02)


def test_p_values_of_an_unchanged_stream_are_uniform_and_independent_with_ties(rng: Rng) -> None:
    watch, p_values = DriftWatch(rng.integers(0, 20, 50).astype(float)), []
    for score in rng.integers(0, 20, 3000).astype(float):
        p_values.append(watch.p_value(score))
        watch.update(["x"], [score])
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(p_values[1:], p_values[:-1])[0, 1]) < 0.06


def test_the_alarm_is_rarely_false_and_a_change_raises_it_quickly(rng: Rng) -> None:
    false_alarms = sum(simulate(rng, 600, 0, 0, seed=i).alarm is not None for i in range(100))
    assert false_alarms <= stats.binom(100, 0.01).ppf(0.9999)
    for before in (0, 400):
        alarms = [simulate(rng, before, 300, 0.5, n=499).alarm for _ in range(20)]
        assert all(alarm is not None and alarm >= before for alarm in alarms)


def test_ranking_among_the_calibration_scores_alone_would_raise_too_many_false_alarms(rng: Rng) -> None:
    """Why ranks include earlier scores of the stream: among few calibration scores alone, many streams look shifted."""

    class CalibrationOnlyWatch(DriftWatch):
        def update(self, files: list[str], scores: np.ndarray) -> None:  # type: ignore[override]
            for file, score in zip(files, scores, strict=True):
                super().update([file], [score])
                self.sorted_scores = self.calibration.tolist()

    alarms = 0
    for _ in range(25):
        watch = CalibrationOnlyWatch(rng.normal(size=99))
        watch.update(names(1500), rng.normal(size=1500))
        alarms += watch.alarm is not None
    assert alarms >= 5


def test_drivers_of_the_alarm_come_after_the_change(rng: Rng) -> None:
    watch = simulate(rng, 300, 200, 2.0)
    assert watch.alarm is not None
    drivers = watch.drivers()
    assert 1 <= len(drivers) <= 10
    assert np.mean([index >= 300 for index in drivers]) > 0.7
    assert max(drivers) <= watch.alarm


def test_a_stream_resumes_exactly_from_its_state(rng: Rng, tmp_path: Path) -> None:
    calibration, stream = rng.normal(size=99), np.round(rng.normal(size=60), 1)
    uninterrupted, resumed = DriftWatch(calibration, 0.05, seed=3), DriftWatch(calibration, 0.05, seed=3)
    uninterrupted.update(names(60), stream)
    resumed.update(names(60)[:25], stream[:25])
    resumed.save(tmp_path / "state.json")
    resumed = DriftWatch.load(tmp_path / "state.json", calibration)
    resumed.update(names(60)[25:], stream[25:])
    assert resumed.evidence == uninterrupted.evidence  # bitwise
    assert (resumed.files, resumed.scores, resumed.delta) == (uninterrupted.files, uninterrupted.scores, 0.05)


@pytest.mark.parametrize("damage", ["nothing", "[]", "{", '{"schema_version": 2}', "cut", "capital", "lengths"])
def test_a_damaged_state_is_refused(damage: str, rng: Rng, tmp_path: Path) -> None:
    calibration, path = rng.normal(size=20), tmp_path / "state.json"
    watch = DriftWatch(calibration)
    watch.update(names(5), rng.normal(size=5))
    watch.save(path)
    state = json.loads(path.read_text())
    changed = {
        "nothing": "",
        "cut": path.read_text()[:-20],
        "capital": json.dumps(state | {"capital": [1.0]}),
        "lengths": json.dumps(state | {"scores": state["scores"][1:]}),
    }
    path.write_text(changed.get(damage, damage))
    with pytest.raises(ArtifactError, match="state"):
        DriftWatch.load(path, calibration)


def test_a_state_of_a_different_calibration_is_refused(rng: Rng, tmp_path: Path) -> None:
    DriftWatch(rng.normal(size=20)).save(tmp_path / "state.json")
    with pytest.raises(ArtifactError, match="different detector or calibration"):
        DriftWatch.load(tmp_path / "state.json", rng.normal(size=20))


def test_missing_calibration_scores_and_invalid_delta_are_refused() -> None:
    with pytest.raises(StateError, match="run calibrate first"):
        DriftWatch(np.empty(0))
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        DriftWatch(np.ones(3), delta=0.0)
