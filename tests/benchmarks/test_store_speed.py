"""The benchmark of the store measures what it says."""

from __future__ import annotations

from pathlib import Path

import store_speed
from stored_inspections import DETECTOR_FILE

from oddlens.store.open import open_store


def test_each_way_is_measured_and_the_rows_are_copied(tmp_path: Path) -> None:
    url = str(tmp_path / "parts.db")
    measured = dict(store_speed.measure(DETECTOR_FILE, url, count=3, size=10, rows=20))
    assert next(iter(measured)) == "add, 1 at a time"
    assert len(measured) == 6
    assert all(result[0].isdecimal() for result in measured.values())
    with open_store(url) as store:
        assert store.counts()["n"] == 20
        assert len(store.inspections()) == 20
        assert store.check() == []
