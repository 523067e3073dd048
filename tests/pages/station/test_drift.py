from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stored_inspections import VALUES

from oddlens.config.base import DecisionSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.lot import LotTest
from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT, CalibrationScheme
from oddlens.pages.station import drift
from oddlens.pages.station.drift import PartStream, ShiftDrift
from oddlens.store.inspection import StoredInspection

RNG = np.random.default_rng(0)
CALIBRATION = RNG.normal(size=200)
NO_SCORES = np.empty(0)


def part(number: int, score: float, **changes: object) -> StoredInspection:
    values = VALUES | {
        "id": number, "anomaly_score": score, "image_sha256": "", "map_sha256": None, "detector_sha256": "",
        "detector_suffix": ".onnx", "training": "", "image_stored": True, "map_stored": False, "detector_stored": True,
        "judgement": None,
    }  # fmt: skip
    return StoredInspection(**values | changes)


def decision(scheme: CalibrationScheme = HELD_OUT, scores: np.ndarray = CALIBRATION) -> Decision:
    return Decision(DecisionSettings(), scores, NO_SCORES, scheme)


def state_after(stream: PartStream, scores: np.ndarray) -> str:
    for number, score in enumerate(scores.tolist(), 1):
        stream.add(part(number, score))
    return stream.state


@pytest.mark.parametrize("scheme", [HELD_OUT, LEAVE_ONE_OUT])
def test_parts_like_the_calibration_are_steady_and_others_are_not(scheme: CalibrationScheme) -> None:
    stream = PartStream(decision(scheme))
    assert state_after(stream, RNG.normal(size=29)) == "few"
    assert state_after(stream, RNG.normal(size=200)) == "steady"
    assert state_after(PartStream(decision(scheme)), RNG.normal(2, size=240)) == "drifted"


def test_a_stream_that_drifted_stays_so_although_its_evidence_falls() -> None:
    stream = PartStream(decision())
    assert state_after(stream, RNG.normal(3, size=100)) == "drifted"
    assert state_after(stream, RNG.normal(size=1000)) == "drifted"


def test_the_test_of_a_lot_is_read_when_the_number_of_parts_has_doubled() -> None:
    stream = PartStream(decision(LEAVE_ONE_OUT))
    tests = list[LotTest | None]()
    for number in range(1, 130):
        stream.add(part(number, 0.0))
        tests.append(stream.test)
    assert [number for number in range(2, 130) if tests[number - 1] is not tests[number - 2]] == [30, 60, 120]


def test_a_stream_is_bounded_and_then_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MAX_STREAM", 100)
    stream = PartStream(decision())
    state_after(stream, RNG.normal(3, size=100))
    assert (stream.n, stream.state) == (100, "drifted")
    stream.add(part(101, 0.0))
    assert (stream.n, stream.state) == (1, "few")
    assert stream.watch is not None
    assert len(stream.watch.scores) == 1


def test_without_calibration_nothing_is_watched() -> None:
    assert state_after(PartStream(decision(scores=NO_SCORES)), np.zeros(100)) == "unwatched"


def test_each_group_has_its_stream_and_a_new_detector_begins_another() -> None:
    decisions = GroupedDecision({"left": decision(), "right": decision()})
    shift = ShiftDrift()
    for number in range(1, 4):
        shift.add(part(number, 0.0, group="left"), decisions)
    shift.add(part(4, 0.0, group="right"), decisions)
    shift.add(part(5, 0.0, group="elsewhere"), decisions)
    shift.add(part(6, 0.0, group="left"), None)
    assert [(entry["group"], entry["n"]) for entry in shift.as_json()] == [("left", 3), ("right", 1)]
    shift.add(replace(part(7, 0.0, group="left"), detector_digest="another"), decisions)
    assert [entry["n"] for entry in shift.as_json()] == [1, 1]


def test_a_decision_that_guarantees_nothing_is_not_watched() -> None:
    impossible = replace(decision(LEAVE_ONE_OUT), settings=DecisionSettings(false_alarm_rate=1e-6))
    shift = ShiftDrift()
    shift.add(part(1, 0.0), GroupedDecision({UNGROUPED: impossible}))
    assert [entry["state"] for entry in shift.as_json()] == ["unwatched"]
