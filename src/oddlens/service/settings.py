"""Settings of a service, and what is refused before it starts: names that clash, an address without a token."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oddlens.errors import DataNotFoundError, SettingsError
from oddlens.io.own_folder import read_marker
from oddlens.io.paths import expand_home
from oddlens.service.users import MIN_TOKEN, User
from oddlens.store.inspection import DETECTOR_NAME

NAME = DETECTOR_NAME
LOCAL_NAMES = ("localhost",)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How a service runs.

    Attributes:
        detectors: name -> `.onnx` file; there may be none where there is a `root`.
        store: address of the store of inspections; None records nothing.
        host, port: where it listens; port 0 takes a free one.
        users: who may call, with their tokens; nobody needs one where it is empty, on a loopback address.
        allowed_hosts: names in the Host header that are answered, besides localhost and addresses in digits.
        queue: number of images that may wait or be scored at the same time.
        deadline: seconds from the arrival of a request until its answer.
        max_mb: megabytes of a request.
        workers: number of images that are decoded or scored at the same time, one thread each; one more than cores
            keeps all cores busy, as each thread waits at times.
        keep_days, keep_gb: retention of images, applied each hour; None keeps all.
        root: folder with photographs that engineers may learn from; nothing is written below it.

    Raises:
        SettingsError: a token is missing where it is needed, a number is out of range, or `root` and the store share
            a folder.
        DataNotFoundError: `root` is no folder.
    """

    detectors: dict[str, Path]
    store: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    users: tuple[User, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    queue: int = 64
    deadline: float = 30.0
    max_mb: float = 64.0
    workers: int = (os.cpu_count() or 1) + 1
    keep_days: float | None = None
    keep_gb: float | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        if not self.users and not is_loopback(self.host):
            raise SettingsError(
                f"{self.host}: other machines can reach this address, so callers must send a token: write one of at "
                f"least {MIN_TOKEN} characters to a file, and give it with --token-file"
            )
        if self.store is None and (self.keep_days is not None or self.keep_gb is not None):
            raise SettingsError("--keep-days and --keep-gb are for a store: leave out --no-store")
        for name, value in (("--queue", self.queue), ("--deadline", self.deadline), ("--max-mb", self.max_mb)):
            if not 0 < value < float("inf"):
                raise SettingsError(f"{name}: must be a number above 0")
        if self.root is not None:
            check_root(self.root, self.store)
        elif not self.detectors:
            raise SettingsError("there is nothing to serve: name a detector (part.onnx), or a folder with --root")

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request, at most."""
        return int(self.max_mb * 1e6)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL_NAMES


def name_detectors(arguments: Sequence[str]) -> dict[str, Path]:
    """The name and the file of each detector: `part.onnx`, which is named "part", or `NAME=FILE`.

    Raises:
        SettingsError: a name is not fit for an address, is there twice, or the file is no exported one.
        DataNotFoundError: there is no such file.
    """
    detectors: dict[str, Path] = {}
    for argument in arguments:
        name, is_named, file = argument.partition("=")
        path = Path(expand_home(file if is_named else argument))
        name = name if is_named else path.stem
        if path.suffix != ".onnx":
            raise SettingsError(f"{path}: only .onnx files are served; make one with `oddlens export`")
        if not path.is_file():
            raise DataNotFoundError(f"{path}: is not a file; check the path")
        if not NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r}: the name of a detector has letters, digits, '.', '_' and '-'; give one with NAME={path}"
            )
        if name in detectors:
            raise SettingsError(f"two detectors are named {name!r}; give one another name with NAME={path}")
        detectors[name] = path
    return detectors


def default_store(detector: Path | None) -> str:
    """The store where none is named: a SQLite file in the folder of the detector, or without one in this folder."""
    return "inspections.db" if detector is None else str(detector.parent / "inspections.db")


def check_root(root: Path, store: str | None) -> None:
    """Check that photographs are read from `root`, and that the files of a store lie elsewhere.

    Raises:
        DataNotFoundError: `root` is no folder.
        SettingsError: there is no store, the store lies in `root`, or `root` lies among the files of a store.
    """
    from oddlens.store.database import parse_url

    if not root.is_dir():
        raise DataNotFoundError(f"{root}: is not a folder; give the folder with the photographs (--root)")
    if store is None:
        raise SettingsError("--root is for pages that need a store: leave out --no-store")
    url, files = parse_url(store)
    folder = Path(os.path.realpath(root))
    database = [Path(url.database)] if url.get_backend_name() == "sqlite" and url.database else []
    for path in (*database, files):
        if Path(os.path.realpath(path)).is_relative_to(folder):
            raise SettingsError(
                f"{path}: would lie below --root {root}, where nothing is written; give an address elsewhere (--store)"
            )
    if folder.is_relative_to(os.path.realpath(files)) or any(
        "store" in read_marker(parent) for parent in (folder, *folder.parents)
    ):
        raise SettingsError(f"{root}: lies among the files of a store; give the folder with the photographs (--root)")
