"""The detectors of a service, by name; one is replaced while the others, and requests that it began, go on."""

from __future__ import annotations

import threading
from pathlib import Path

from oddlens.detector.detector import Detector
from oddlens.store.store import Store


class ServedDetectors:
    """Detectors that were loaded from files; each scores in the thread that calls it.

    Raises:
        DataNotFoundError, ArtifactError, MissingExtraError, SettingsError: one cannot be loaded.
        DiskFullError, StoreError: it cannot be stored.
    """

    def __init__(self, paths: dict[str, Path], store: Store | None) -> None:
        self.paths, self.store = paths, store
        self._loading = threading.Lock()
        self._detectors = {name: self._load(path) for name, path in paths.items()}

    def _load(self, path: Path) -> Detector:
        detector = Detector.load(path, device="cpu", threads=1)
        if self.store is not None:
            self.store.add_detector(detector, path)
        return detector

    def reload(self, name: str) -> Detector:
        """Load the file of a detector again; on an error, the present one goes on."""
        with self._loading:
            detector = self._load(self.paths[name])
            self._detectors[name] = detector
        return detector

    def __getitem__(self, name: str) -> Detector:
        return self._detectors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._detectors

    @property
    def names(self) -> list[str]:
        """All names, in the order of the command line."""
        return list(self.paths)
