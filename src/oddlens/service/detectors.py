"""The detectors of a service, by name; one is replaced while the others, and requests that it began, go on."""

from __future__ import annotations

import threading
from pathlib import Path

from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError, StateError
from oddlens.store.inspection import check_detector_name
from oddlens.store.store import Store

COMMAND_LINE = "command line"  # in place of a person, where a detector serves because its file was named there


class ServedDetectors:
    """Detectors that were put into service; each scores in the thread that calls it.

    With a store, a file that never served under its name is put into service, and then the newest deployment of each
    name serves. A name that is not in `paths` serves if a person deployed it last. `remarks` says which of the `paths`
    do not serve, and why.

    Raises:
        DataNotFoundError, ArtifactError, MissingExtraError, SettingsError: one cannot be loaded.
        DiskFullError, StoreError: it cannot be stored.
    """

    def __init__(self, paths: dict[str, Path], store: Store | None) -> None:
        self.paths, self.store = paths, store
        self.remarks: list[str] = []
        self._loading = threading.Lock()
        self._detectors = {name: self._load(path) for name, path in paths.items()}
        if store is not None:
            self._deploy_new_files(store)
            self._load_deployed(store)

    def _load(self, path: Path) -> Detector:
        detector = Detector.load(path, device="cpu", threads=1)
        if self.store is not None:
            self.store.add_detector(detector, path)
        return detector

    def _deploy_new_files(self, store: Store) -> None:
        for name, detector in self._detectors.items():
            digest = detector.manifest.digest
            if not store.has_served(digest, name):
                store.deploy(name, digest, person=COMMAND_LINE, reason="started with this file")

    def _load_deployed(self, store: Store) -> None:
        for name, action in store.out_of_service().items():
            if self._detectors.pop(name, None) is not None:
                self.remarks.append(
                    f"{name}: does not serve, as {action.person} took it out of service on "
                    f"{action.time:%Y-%m-%d %H:%M} UTC; to serve {self.paths[name]} again, post to "
                    f"/v1/detectors/{name}/reload"
                )
        for name, deployment in store.deployed().items():
            digest = deployment.detector_digest
            if name not in self.paths and deployment.person == COMMAND_LINE:
                continue  # its file is no longer on the command line
            if name in self and digest == self[name].manifest.digest:
                continue
            self._detectors[name] = load_stored(store, name, digest)
            if name in self.paths:
                self.remarks.append(
                    f"{name}: the detector {digest} serves, which {deployment.person} put into service on "
                    f"{deployment.time:%Y-%m-%d %H:%M} UTC, and not {self.paths[name]}, which served before; to serve "
                    f"the file again, post to /v1/detectors/{name}/reload"
                )

    def deploy(self, name: str, digest: str, *, person: str, reason: str = "") -> Detector:
        """Put a detector of the store into service under a name; on an error, the present one goes on.

        Raises:
            SettingsError: the name or the file is none that can be served, or the person has no name.
            StateError: there is no store.
            DataNotFoundError, ArtifactError, MissingExtraError: the detector is not in the store, or cannot be loaded.
            DiskFullError, StoreError: the deployment cannot be recorded.
        """
        check_detector_name(name)
        if self.store is None:
            raise StateError("detectors are put into service from a store: start the service without --no-store")
        with self._loading:
            detector = load_stored(self.store, name, digest)
            self.store.deploy(name, digest, person=person, reason=reason)
            self._detectors = {**self._detectors, name: detector}
        return detector

    def take_out(self, name: str, *, person: str, reason: str = "") -> None:
        """Take a name out of service: nothing serves under it from now on, also after a restart.

        Raises:
            SettingsError: nothing serves under this name, or the person has no name.
            StateError: there is no store.
            DiskFullError, StoreError: it cannot be recorded; the detector goes on.
        """
        if self.store is None:
            raise StateError("detectors are taken out of service in a store: start the service without --no-store")
        with self._loading:
            if name not in self:
                raise SettingsError(f"{name[:40]!r} is not in service; load the page again")
            self.store.take_out_of_service(name, person=person, reason=reason)
            self._detectors = {other: detector for other, detector in self._detectors.items() if other != name}

    def reload(self, name: str, *, person: str) -> Detector:
        """Load the file of a detector again, and put it into service; on an error, the present one goes on.

        Raises:
            SettingsError: the name has no file on the command line.
            OddlensError: the file cannot be loaded or stored.
        """
        if name not in self.paths:
            raise SettingsError(f"{name}: has no file on the command line; put a detector of the store into service")
        with self._loading:
            detector = self._load(self.paths[name])
            digest = detector.manifest.digest
            if self.store is not None and (name not in self or digest != self[name].manifest.digest):
                self.store.deploy(name, digest, person=person, reason="its file was read again")
            self._detectors = {**self._detectors, name: detector}
        return detector

    def __getitem__(self, name: str) -> Detector:
        return self._detectors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._detectors

    def items(self) -> list[tuple[str, Detector]]:
        """All names with their detectors at one moment, in the order of `names`."""
        return list(self._detectors.items())

    @property
    def names(self) -> list[str]:
        """All names: in the order of the command line, then those that the store has besides."""
        return list(self._detectors)


def load_stored(store: Store, name: str, digest: str) -> Detector:
    """Load a detector whose file is in the store; errors name it `name`.

    Raises:
        DataNotFoundError, ArtifactError, MissingExtraError: it is not there, or cannot be loaded.
        SettingsError: it is no exported one.
    """
    suffix, content = store.detector_content(digest)
    if suffix != ".onnx":
        raise SettingsError(f"{name}{suffix}: only .onnx files are served; make one with `oddlens export`")
    return Detector.load(f"{name}{suffix}", device="cpu", threads=1, content=content)
