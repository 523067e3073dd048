"""The table of contents: a detector's file is stored once, and only as it was loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE, stored_paths

from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataNotFoundError
from oddlens.store.store import Store


def test_a_detector_is_stored_once_and_not_after_its_file_has_changed(
    store: Store, tiles: Detector, tmp_path: Path
) -> None:
    path = Path(shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx"))
    store.add_detector(tiles, path)
    assert len(stored_paths(store)) == 1
    content = DETECTOR_FILE.read_bytes()
    for other in (
        b"another detector",
        tiles.manifest.digest.encode(),
        content[:-100],
        content[:-1] + b"?",
        content.replace(b"a", b"b", 1),
    ):
        path.write_bytes(other)
        with pytest.raises(ArtifactError, match="has changed since it was loaded"):
            store.add_detector(tiles, path)
    path.unlink()
    with pytest.raises(DataNotFoundError, match="no longer exists"):
        store.add_detector(tiles, path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.add_detector(tiles, tmp_path)
