"""Inspections for tests of the store, made without scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oddlens.config.base import DecisionSettings
from oddlens.detector.detector import Detector
from oddlens.store.inspection import Inspection
from oddlens.store.store import Store

DETECTOR_FILE = Path(__file__).parent / "compatibility" / "tiles.onnx"
DIGEST = "129f0f596b8ab657d712912b56bc5a8c"  # of the detector in that file
VALUES: dict[str, Any] = {
    "name": "a.png", "anomaly_score": 1.5, "p_value": 0.25, "threshold": 2.0, "verdict": "normal", "detector": "tiles",
    "detector_digest": DIGEST, "runtime": "a runtime", "processor": "a processor", "batch_size": 1,
}  # fmt: skip


def inspection(**changes: Any) -> Inspection:
    """An inspection by the detector of `DETECTOR_FILE`, with some values changed."""
    return Inspection(**VALUES | changes)


def add_some(store: Store, count: int, **changes: Any) -> list[int]:
    """Add inspections of images with different contents in one transaction, and return their ids."""
    return store.add_batch(
        [(inspection(**{"name": f"{i}.png"} | changes), b"image %d" % i, None) for i in range(count)]
    )


def save_other(path: Path) -> Detector:
    """Save the detector of `DETECTOR_FILE` with a lower threshold, and so another digest."""
    Detector.load(DETECTOR_FILE, threads=1).set_decision(DecisionSettings(false_alarm_rate=0.2)).save(path)
    return Detector.load(path, threads=1)


def stored_paths(store: Store) -> list[Path]:
    """The contents on disk, without unfinished ones."""
    return sorted(path for path in store.files.root.rglob("*") if path.is_file() and not path.name.startswith("."))
