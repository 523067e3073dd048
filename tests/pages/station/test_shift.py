from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from stored_inspections import DIGEST, add_some, inspection

from oddlens.conformal.grouped import GroupedDecision
from oddlens.detector.detector import Detector
from oddlens.pages.station.shift import Shift, shift_start
from oddlens.store.store import Store

START = datetime(2026, 11, 29, 6, tzinfo=UTC)


def nobody(name: str, digest: str) -> GroupedDecision | None:
    return None


@pytest.mark.parametrize(
    ("now", "start"),
    [
        ("2026-11-29T06:00", "2026-11-29T06:00"),
        ("2026-11-29T13:59", "2026-11-29T06:00"),
        ("2026-11-29T14:00", "2026-11-29T14:00"),
        ("2026-11-29T23:30", "2026-11-29T22:00"),
        ("2026-11-29T05:59", "2026-11-28T22:00"),
        ("2026-11-01T00:00", "2026-10-31T22:00"),
    ],
)
def test_shifts_begin_at_6_14_and_22_o_clock_of_the_place(now: str, start: str) -> None:
    assert shift_start(datetime.fromisoformat(f"{now}+01:00")) == datetime.fromisoformat(f"{start}+01:00")


def counted(shift: Shift) -> list[int]:
    values = shift.as_json()
    return [values[name] for name in ("n", "n_anomalous", "n_judged", "n_false_alarms", "n_missed")]


def test_counting_on_gives_what_reading_the_store_again_gives(store: Store) -> None:
    add_some(store, 3, time=START - timedelta(seconds=1))
    shift = Shift.read(store, START, store.last_ids()[0], nobody)
    assert counted(shift) == [0] * 5
    ids = add_some(store, 4, time=START) + add_some(store, 2, time=START, verdict="anomaly")
    for number in [1, *ids]:
        shift.add(store.inspection(number))
    assert counted(shift) == [6, 2, 0, 0, 0]
    for number in (1, ids[0]):
        store.judge(number, "anomaly", person="Anna")
    for number in (ids[1], ids[4]):
        store.judge(number, "normal", person="Anna")
    alarm = store.judge(ids[5], "normal", person="Anna")
    for number in (1, *ids):
        shift.judge(store.inspection(number))
    assert counted(shift) == [6, 2, 4, 2, 1]
    store.withdraw(alarm.id, person="Anna")
    shift.judge(store.inspection(ids[5]))
    assert counted(shift) == [6, 2, 3, 1, 1]
    again = Shift.read(store, START, store.last_ids()[0], nobody)
    assert again.as_json() == shift.as_json()


def test_reading_stops_at_the_last_id_so_that_nothing_counts_twice(store: Store) -> None:
    first, last = add_some(store, 2, time=START)
    assert counted(Shift.read(store, START, first, nobody))[0] == 1
    assert counted(Shift.read(store, START, last, nobody))[0] == 2


def test_drift_is_judged_by_the_parts_of_the_shift_in_their_order(store: Store, tiles: Detector) -> None:
    def served(name: str, digest: str) -> GroupedDecision | None:
        return tiles.decisions_ if (name, digest) == ("tiles", DIGEST) else None

    store.add_batch(
        [(inspection(time=START, anomaly_score=1e6), b"", None)] * 40 + [(inspection(detector="b"), b"", None)] * 40
    )
    shift = Shift.read(store, START, store.last_ids()[0], served)
    assert shift.as_json()["drift"] == [{"detector": "tiles", "group": None, "state": "drifted", "n": 40}]
    on = Shift(START, served)
    for page in store.iter_inspections():
        for stored in page:
            on.add(stored)
    assert on.as_json() == shift.as_json()
