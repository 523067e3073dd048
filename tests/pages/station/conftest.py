"""Fixtures: a store with a detector of woven tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE

from oddlens.detector.detector import Detector
from oddlens.store.open import open_store
from oddlens.store.store import Store


@pytest.fixture(scope="session")
def tiles() -> Detector:
    """The detector of `DETECTOR_FILE`; tests do not change it."""
    return Detector.load(DETECTOR_FILE, threads=1)


@pytest.fixture
def store(tmp_path: Path, tiles: Detector) -> Iterator[Store]:
    """An empty store with the detector."""
    with open_store(str(tmp_path / "parts.db")) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        yield store
