"""Open data sets by name: read from the layouts of torchvision and Keras, otherwise downloaded and verified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oddlens.data.image_set import DataSet
from oddlens.data.sources.arrays import LabelledArrays, build_labelled_dataset, read_keras_npz
from oddlens.data.sources.builtin import load_digits, load_tiles_dataset
from oddlens.data.sources.cifar import CLASSES as CIFAR_CLASSES
from oddlens.data.sources.cifar import find_cifar, read_cifar
from oddlens.data.sources.download import DownloadProgress, fetch, import_pooch
from oddlens.data.sources.idx import read_idx
from oddlens.errors import DataError, DataNotFoundError
from oddlens.io.paths import expand_home

NAMES = ("digits", "tiles", "mnist", "fashion-mnist", "kmnist", "cifar10")

_IDX = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))


@dataclass(frozen=True)
class PublishedSet:
    """A data set's URL, files with MD5 checksums, folder below the data folder, and class names."""

    url: str
    files: Mapping[str, str]
    folder: str
    classes: tuple[str, ...]


def _idx_set(url: str, folder: str, sums: Sequence[str], classes: str) -> PublishedSet:
    files = {f"{name}.gz": md5 for name, md5 in zip(_IDX, sums, strict=True)}
    return PublishedSet(url, files, folder, tuple(classes.split(", ")))


# URLs, checksums and class names as listed by torchvision and the publishers.
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
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},  # the archive without pickles
        "",
        CIFAR_CLASSES,
    ),
}


def open_named(
    name: str,
    normal: str | None,
    data_dir: Path | None,
    download: bool = True,
    progress: DownloadProgress | None = None,
) -> DataSet:
    """Open one of `NAMES` in `data_dir`, else $ODDLENS_DATA, else a cache folder; it is downloaded there if missing.

    Raises:
        DataNotFoundError: the data set is missing and cannot be downloaded.
        DataError: its files are damaged, or it has no such class.
    """
    if name == "digits":
        return build_labelled_dataset(name, load_digits(), normal)
    if name == "tiles":
        return load_tiles_dataset(normal)
    root = data_dir or _default_root(name)
    arrays = _cifar10(root, download, progress) if name == "cifar10" else _mnist_family(name, root, download, progress)
    return build_labelled_dataset(name, arrays, normal)


def _default_root(name: str) -> Path:
    if os.environ.get("ODDLENS_DATA"):
        return Path(expand_home(os.environ["ODDLENS_DATA"]))
    return Path(import_pooch(f"'{name}' without --data or $ODDLENS_DATA").os_cache("oddlens"))


def _keras_folder() -> Path:
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111 - never raises
    return Path(home) / "datasets"


def _cifar10(root: Path, download: bool, progress: DownloadProgress | None) -> LabelledArrays:
    source = find_cifar(root) or find_cifar(_keras_folder())
    if source is None:
        source = _fetch_all(
            "cifar10", root, "cifar-10-batches-py, cifar-10-batches-bin or one of their .tar.gz", download, progress
        )[0]
    (x_train, y_train), (x_test, y_test) = read_cifar(source)
    classes = np.array(CIFAR_CLASSES)
    return LabelledArrays(x_train, classes[y_train], x_test, classes[y_test])


def _mnist_family(name: str, root: Path, download: bool, progress: DownloadProgress | None) -> LabelledArrays:
    for folder in (root, _keras_folder()):
        files = _find_idx(name, folder)
        if files:
            return _read_idx_files(name, files)
        if name == "mnist" and (folder / "mnist.npz").is_file():
            return read_keras_npz(folder / "mnist.npz")
    or_keras = "; or mnist.npz" if name == "mnist" else ""
    expected = f"in {PUBLISHED_SETS[name].folder}: {', '.join(_IDX)}, plain or .gz{or_keras}"
    return _read_idx_files(name, _fetch_all(name, root, expected, download, progress))


def _find_idx(name: str, root: Path) -> list[Path]:
    """Find the four files, plain or gzipped, in or below `root`; an empty list if one of them is missing."""
    default_folder = root / PUBLISHED_SETS[name].folder
    other_sets = {other.folder.split("/")[0] for key, other in PUBLISHED_SETS.items() if key != name}
    folders = [default_folder, default_folder.parent, root / name]
    if not other_sets & set(root.absolute().parts[-2:]):  # the files of all sets have the same names
        folders += [root / "raw", root]
    for folder in folders:
        candidates = [(folder / stem, folder / f"{stem}.gz") for stem in _IDX]
        files = [plain if plain.is_file() else gzipped for plain, gzipped in candidates]
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
                "delete both files and download them again"
            )
    return LabelledArrays(x_train, classes[y_train], x_test, classes[y_test])


def _fetch_all(name: str, root: Path, files: str, download: bool, progress: DownloadProgress | None) -> list[Path]:
    """Download the files of a set that are not there yet; $ODDLENS_MIRROR/<name>/<file> replaces the publisher."""
    if not download:
        raise DataNotFoundError(f"{name}: is not below {root} (wanted: {files})")
    published = PUBLISHED_SETS[name]
    mirror = os.environ.get("ODDLENS_MIRROR")
    base = f"{mirror.rstrip('/')}/{name}" if mirror else published.url
    folder = root / published.folder
    try:
        return [
            folder / file if (folder / file).is_file() else fetch(f"{base}/{file}", md5, folder, progress)
            for file, md5 in published.files.items()
        ]
    except DataNotFoundError as error:
        raise DataNotFoundError(
            f"{name}: is not below {root} (wanted: {files}), and {error}; put the files there or name their folder "
            f"with --data; without any data, try: oddlens demo"
        ) from error
