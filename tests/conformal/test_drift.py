"""Drift: bets against a stream that gain only where it changes, and a state that goes on where it stopped."""

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


def watched(rng: Rng, before: int, after: int, shift: float, n: int = 200, seed: int = 0) -> DriftWatch:
    stream = rng.normal(size=before + after) + np.repeat([0, shift], [before, after])
    watch = DriftWatch(rng.normal(size=n), seed=seed)
    watch.update(names(len(stream)), stream)
    return watch


def test_every_bet_is_a_density() -> None:
    places = (np.arange(200_000) + 0.5) / 200_000
    gains = np.array([drift.bets(p) for p in places[::20]])
    assert (gains > 0).all()
    assert gains.mean(axis=0) == pytest.approx(1, abs=0.02)


def test_p_values_of_an_unchanged_stream_are_uniform_and_independent_even_with_ties(rng: Rng) -> None:
    watch, found = DriftWatch(rng.integers(0, 20, 50).astype(float)), []
    for score in rng.integers(0, 20, 3000).astype(float):
        found.append(watch.p_value(score))
        watch.update(["x"], [score])
    assert stats.kstest(found, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.06


def test_the_alarm_is_seldom_false_and_a_change_raises_it_soon(rng: Rng) -> None:
    false = sum(watched(rng, 600, 0, 0, seed=i).alarm is not None for i in range(100))
    assert false <= stats.binom(100, 0.01).ppf(0.9999)
    for before in (0, 400):
        raised = [watched(rng, before, 300, 0.5, n=499).alarm for _ in range(20)]
        assert all(alarm is not None and alarm >= before for alarm in raised)


def test_against_the_calibration_alone_the_promise_would_fail(rng: Rng) -> None:
    """Why earlier scores of the stream count: ranked among few calibration scores alone, many streams look odd."""

    class Forgetful(DriftWatch):
        def update(self, files: list[str], scores: np.ndarray) -> None:  # type: ignore[override]
            for file, score in zip(files, scores, strict=True):
                super().update([file], [score])
                self.known = self.calibration.tolist()

    alarms = 0
    for _ in range(25):
        watch = Forgetful(rng.normal(size=99))
        watch.update(names(1500), rng.normal(size=1500))
        alarms += watch.alarm is not None
    assert alarms >= 5


def test_what_drove_the_alarm_comes_after_the_change(rng: Rng) -> None:
    watch = watched(rng, 300, 200, 2.0)
    assert watch.alarm is not None
    drivers = watch.drivers()
    assert 1 <= len(drivers) <= 10
    assert np.mean([place >= 300 for place in drivers]) > 0.7
    assert max(drivers) <= watch.alarm


def test_a_stream_goes_on_where_it_stopped(rng: Rng, tmp_path: Path) -> None:
    calibration, stream = rng.normal(size=99), np.round(rng.normal(size=60), 1)
    whole, part = DriftWatch(calibration, 0.05, seed=3), DriftWatch(calibration, 0.05, seed=3)
    whole.update(names(60), stream)
    part.update(names(60)[:25], stream[:25])
    part.save(tmp_path / "state.json")
    part = DriftWatch.load(tmp_path / "state.json", calibration)
    part.update(names(60)[25:], stream[25:])
    assert part.evidence == whole.evidence  # bitwise
    assert (part.files, part.scores, part.delta) == (whole.files, whole.scores, 0.05)


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


def test_a_state_of_another_calibration_is_refused(rng: Rng, tmp_path: Path) -> None:
    DriftWatch(rng.normal(size=20)).save(tmp_path / "state.json")
    with pytest.raises(ArtifactError, match="another detector or calibration"):
        DriftWatch.load(tmp_path / "state.json", rng.normal(size=20))


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(StateError, match="run calibrate first"):
        DriftWatch(np.empty(0))
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        DriftWatch(np.ones(3), delta=0.0)
