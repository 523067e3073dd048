"""Data sets known by name: found where torchvision and Keras keep them, else downloaded and checked."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from oddlens.data.image_set import DataSet
from oddlens.data.sources.arrays import LabelledArrays, labelled_set, read_keras
from oddlens.data.sources.builtin import digits, tiles
from oddlens.data.sources.cifar import CLASSES as CIFAR_CLASSES
from oddlens.data.sources.cifar import find_cifar, read_cifar
from oddlens.data.sources.idx import read_idx
from oddlens.errors import DataError, DataNotFoundError, MissingExtraError

NAMES = ("digits", "tiles", "mnist", "fashion-mnist", "kmnist", "cifar10")
STALL_SECONDS = 30.0  # seconds without a byte after which a download is given up

_IDX = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class PublishedSet:
    """Where a data set is published, its files with their MD5 sums, and the folder for them below the data folder."""

    url: str
    files: Mapping[str, str]
    folder: str
    classes: tuple[str, ...]


def _idx_set(url: str, folder: str, sums: Sequence[str], classes: str) -> PublishedSet:
    files = {f"{name}.gz": md5 for name, md5 in zip(_IDX, sums, strict=True)}
    return PublishedSet(url, files, folder, tuple(classes.split(", ")))


# Addresses, sums and class names as torchvision and the publishers list them.
PUBLISHED_SETS = {
    "mnist": _idx_set(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "MNIST/raw",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    ),
    "fashion-mnist": _idx_set(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "FashionMNIST/raw",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        "t-shirt/top, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot",
    ),
    "kmnist": _idx_set(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        "KMNIST/raw",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        "o, ki, su, tsu, na, ha, ma, ya, re, wo",
    ),
    "cifar10": PublishedSet(
        "https://www.cs.toronto.edu/~kriz",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},  # the one without pickles
        "",
        CIFAR_CLASSES,
    ),
}


def open_named(name: str, normal: str | None, data_dir: Path | None, download: bool = True) -> DataSet:
    """One of `NAMES`, from `data_dir`, else $ODDLENS_DATA, else a cache folder; downloaded there if need be.

    Raises:
        DataNotFoundError: it is not there and cannot be downloaded.
        DataError: its files are damaged, or there is no such class.
    """
    if name == "digits":
        return labelled_set(name, digits(), normal)
    if name == "tiles":
        return tiles(normal)
    root = data_dir or _default_root(name)
    arrays = _cifar10(root, download) if name == "cifar10" else _mnist_family(name, root, download)
    return labelled_set(name, arrays, normal)


def _default_root(name: str) -> Path:
    if os.environ.get("ODDLENS_DATA"):
        return Path(os.environ["ODDLENS_DATA"])
    return Path(_pooch(f"'{name}' without --data or $ODDLENS_DATA").os_cache("oddlens"))


def _keras_folder() -> Path:
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111 - never raises
    return Path(home) / "datasets"


def _cifar10(root: Path, download: bool) -> LabelledArrays:
    source = find_cifar(root) or find_cifar(_keras_folder())
    if source is None:
        source = _fetch_all(
            "cifar10", root, "cifar-10-batches-py, cifar-10-batches-bin or one of their .tar.gz", download
        )[0]
    (x_train, y_train), (x_test, y_test) = read_cifar(source)
    classes = np.array(CIFAR_CLASSES)
    return LabelledArrays(x_train, classes[y_train], x_test, classes[y_test])


def _mnist_family(name: str, root: Path, download: bool) -> LabelledArrays:
    for place in (root, _keras_folder()):
        files = _find_idx(name, place)
        if files:
            return _read_idx_files(name, files)
        if name == "mnist" and (place / "mnist.npz").is_file():
            return read_keras(place / "mnist.npz")
    folder, or_keras = PUBLISHED_SETS[name].folder, "; or mnist.npz" if name == "mnist" else ""
    wanted = f"in {folder}: {', '.join(_IDX)}, plain or .gz{or_keras}"
    return _read_idx_files(name, _fetch_all(name, root, wanted, download))


def _find_idx(name: str, place: Path) -> list[Path]:
    """The four files, plain or gzipped, below `place` or in it; nothing where one of them is missing."""
    own = PUBLISHED_SETS[name].folder
    others = {other.folder.split("/")[0] for key, other in PUBLISHED_SETS.items() if key != name}
    folders = [place / own, (place / own).parent, place / name]
    if not others & set(place.absolute().parts[-2:]):  # the files of all sets have the same names
        folders += [place / "raw", place]
    for folder in folders:
        either = [(folder / stem, folder / f"{stem}.gz") for stem in _IDX]
        files = [plain if plain.is_file() else packed for plain, packed in either]
        if all(path.is_file() for path in files):
            return files
    return []


def _read_idx_files(name: str, files: Sequence[Path]) -> LabelledArrays:
    x_train, y_train, x_test, y_test = (read_idx(path, 3 if "images" in path.name else 1) for path in files)
    classes = np.array(PUBLISHED_SETS[name].classes)
    for images, labels, path in ((x_train, y_train, files[1]), (x_test, y_test, files[3])):
        if len(labels) != len(images) or (len(labels) and labels.max() >= len(classes)):
            raise DataError(
                f"{path}: has {len(labels)} labels for {len(images)} images of {len(classes)} classes; "
                f"delete both files and download them again"
            )
    return LabelledArrays(x_train, classes[y_train], x_test, classes[y_test])


def _fetch_all(name: str, root: Path, wanted: str, download: bool) -> list[Path]:
    """Download the files of a set that are not there yet; $ODDLENS_MIRROR/<name>/<file> replaces the publisher."""
    if not download:
        raise DataNotFoundError(f"{name}: is not below {root} (wanted: {wanted})")
    published = PUBLISHED_SETS[name]
    mirror = os.environ.get("ODDLENS_MIRROR")
    base = f"{mirror.rstrip('/')}/{name}" if mirror else published.url
    folder = root / published.folder
    try:
        return [
            folder / file if (folder / file).is_file() else fetch(f"{base}/{file}", md5, folder)
            for file, md5 in published.files.items()
        ]
    except DataNotFoundError as error:
        raise DataNotFoundError(
            f"{name}: is not below {root} (wanted: {wanted}), and {error}; put the files there or name their folder "
            f"with --data; without any data, try: oddlens demo"
        ) from error


def fetch(url: str, md5: str, folder: Path, patience: float = STALL_SECONDS) -> Path:
    """Download one file into `folder`; it appears there only when it is whole and its MD5 sum is right.

    Raises:
        DataNotFoundError: no connection, or nothing came for `patience` seconds.
        DataError: what came is not the file that was published, or cannot be written.
        MissingExtraError: pooch, which downloads, is not installed.
    """
    pooch = _pooch(f"downloading {url}")
    import requests

    progress = _Progress(url)
    done: Future[str] = Future()

    def download(url: str, path: str, _: object) -> None:
        with requests.get(url, stream=True, timeout=patience) as response, Path(path).open("wb") as file:
            response.raise_for_status()
            progress.begin(int(response.headers.get("content-length", 0)))
            for chunk in response.iter_content(2**14):
                file.write(chunk)
                progress.advance(len(chunk))

    def work() -> None:
        try:
            done.set_result(pooch.retrieve(url, f"md5:{md5}", Path(url).name, folder, downloader=download))
        except BaseException as error:
            done.set_exception(error)

    # The time-outs of sockets do not count the look-up of a name, nor the addresses tried one after the other.
    Thread(target=work, daemon=True).start()
    try:
        while not wait([done], timeout=patience / 10).done:
            if time.monotonic() - progress.moved > patience:
                raise DataNotFoundError(f"{url} sent nothing for {patience:g} seconds")
        return Path(done.result())
    except requests.RequestException as error:
        raise DataNotFoundError(f"{url} cannot be downloaded ({_cause(error)})") from error
    except ValueError as error:
        raise DataError(f"{url}: is not the published file (its MD5 sum is not {md5}); try another mirror") from error
    except OSError as error:
        cause = error.strerror or " ".join(str(error).split())
        raise DataError(f"{folder}: cannot be written to ({cause}); name another folder with --data") from error
    finally:
        progress.close()


def _cause(error: BaseException) -> str:
    """The innermost reason, in a few words: libraries wrap it three deep."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:120] or type(error).__name__


def _pooch(feature: str) -> Any:
    try:
        import pooch
    except ImportError as error:
        raise MissingExtraError(feature, "train") from error
    pooch.get_logger().setLevel("WARNING")
    return pooch


class _Progress:
    """A bar where standard error is a terminal, and the time of the last byte."""

    def __init__(self, url: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self.moved = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(Path(url).name, total=None)
        self._bar.start()

    def begin(self, size: int) -> None:
        self._bar.update(self._task, total=size or None)

    def advance(self, count: int) -> None:
        self.moved = time.monotonic()
        self._bar.update(self._task, advance=count)

    def close(self) -> None:
        self._bar.stop()
