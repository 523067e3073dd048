"""The check of a store names what is damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE, add_some

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.store import integrity
from oddlens.store.open import open_store
from oddlens.store.store import Store


def test_files_that_are_missing_or_changed_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "PAGE", 2)
    add_some(store, 5)
    assert store.check() == []
    first, last = (store.files.path(store.inspection(number).image_sha256) for number in (1, 5))
    first.unlink()
    last.write_bytes(b"other")
    assert [problem.rpartition("; ")[0] for problem in sorted(store.check())] == sorted(
        [f"{first}: cannot be read (No such file or directory)", f"{last}: is not what was written"]
    )
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.image(store.inspection(1))


def test_a_row_that_refers_to_none_is_named(tmp_path: Path, tiles: Detector) -> None:
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        other = sqlite3.connect(tmp_path / "parts.db")  # without the setting that refuses it
        other.execute(
            "INSERT INTO judgements (inspection_id, time, person, verdict, reason) VALUES (7, '', '', 'normal', '')"
        )
        other.commit()
        other.close()
        assert store.check() == ["row 1 of judgements refers to a row of inspections that is not there"]
