"""Which inspections and which judgement of them: filters, counts, corrections and withdrawals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stored_inspections import add_some, inspection

from oddlens.store.inspection import Filters
from oddlens.store.store import Store

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def judgement(store: Store, number: int) -> str | None:
    current = store.inspection(number).judgement
    return None if current is None else f"{current.verdict} by {current.person}"


def test_the_last_judgement_that_was_not_withdrawn_counts(store: Store) -> None:
    add_some(store, 2)
    assert judgement(store, 1) is None
    first = store.judge(1, "normal", person="Ann")
    second = store.judge(1, "anomaly", person="Bob")
    store.judge(2, "normal", person="Cem")
    assert judgement(store, 1) == "anomaly by Bob"
    store.withdraw(second.id, person="Bob")
    assert judgement(store, 1) == "normal by Ann"
    store.withdraw(first.id, person="Ann")
    assert judgement(store, 1) is None
    store.judge(1, "anomaly", person="Ann")
    assert judgement(store, 1) == "anomaly by Ann"
    assert judgement(store, 2) == "normal by Cem"
    assert [(one.verdict, one.withdraws) for one in store.judgements(1)] == [
        ("normal", None), ("anomaly", None), (None, second.id), (None, first.id), ("anomaly", None)
    ]  # fmt: skip


def test_an_earlier_judgement_can_be_withdrawn_without_a_change(store: Store) -> None:
    add_some(store, 1)
    first = store.judge(1, "normal", person="Ann")
    store.judge(1, "anomaly", person="Bob")
    store.withdraw(first.id, person="Ann")
    assert judgement(store, 1) == "anomaly by Bob"
    assert store.counts(Filters(judgement="any"))["n"] == 1


def test_filters_select_what_meets_all_of_them(store: Store) -> None:
    rows = [
        ("normal", "p1", "A", None),
        ("anomaly", "p2", "A", None),
        ("normal", None, "B", "t"),
        ("anomaly", None, None, "s"),
    ]
    for i, (verdict, part, lot, station) in enumerate(rows):
        time = NOON + timedelta(hours=i)
        store.add(inspection(verdict=verdict, part=part, lot=lot, station=station, time=time), b"image %d" % i)
    store.judge(1, "anomaly", person="Ann")
    store.judge(2, "normal", person="Ann")
    store.judge(4, "anomaly", person="Ann")
    one_hour = NOON + timedelta(hours=1)
    for filters, ids in [
        (Filters(), [1, 2, 3, 4]),
        (Filters(verdict="anomaly"), [2, 4]),
        (Filters(part="p1"), [1]),
        (Filters(lot="A"), [1, 2]),
        (Filters(lot="a"), []),
        (Filters(lot="A\0"), []),
        (Filters(station="s"), [4]),
        (Filters(since=one_hour), [2, 3, 4]),
        (Filters(until=one_hour), [1]),
        (Filters(since=datetime(2026, 11, 30, 13), until=NOON + timedelta(hours=3)), [2, 3]),
        (Filters(judgement="any"), [1, 2, 4]),
        (Filters(judgement="anomaly"), [1, 4]),
        (Filters(judgement="normal", verdict="anomaly"), [2]),
        (Filters(training="another's"), []),
    ]:
        assert [one.id for page in store.iter_inspections(filters) for one in page] == ids, filters
        assert [one.id for one in store.inspections(filters)] == ids[::-1], filters
        assert store.counts(filters)["n"] == len(ids), filters


def test_counts_tell_false_alarms_from_missed_anomalies(store: Store) -> None:
    add_some(store, 3)
    add_some(store, 2, verdict="anomaly")
    store.judge(1, "anomaly", person="Ann")
    store.judge(2, "normal", person="Ann")
    store.judge(4, "normal", person="Ann")
    assert store.counts() == {"n": 5, "n_anomalous": 2, "n_judged": 3, "n_false_alarms": 1, "n_missed": 1}


def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    add_some(store, 5)
    assert [one.id for one in store.inspections(limit=2)] == [5, 4]
    assert [one.id for one in store.inspections(limit=2, before=4)] == [3, 2]
    assert [one.id for one in store.inspections(limit=2, before=1)] == []
