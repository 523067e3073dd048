"""Data sets are found by name in users' layouts, or downloaded."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    IDX,
    stack_images,
    write_idx_files,
)

from oddlens.data.open import open_dataset
from oddlens.data.sources import named
from oddlens.errors import DataNotFoundError, MissingExtraError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", ""])
def test_mnist_is_read_from_torchvision_layouts(tmp_path: Path, place: str, gzipped: bool) -> None:
    x_train, _, x_test, _ = write_idx_files(tmp_path / "data" / place, gzipped)
    data = open_dataset("mnist", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(data.train.images, x_train[..., None])
    np.testing.assert_array_equal(data.test.images, x_test[..., None])
    assert data.train.kinds == tuple("01234567890123456789")
    assert (data.name, data.normal, data.test.labels.sum()) == ("mnist", "all", 0)
    threes = open_dataset("mnist", normal="3", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(stack_images(threes.train), x_train[[3, 13]][..., None])
    assert threes.train.names == ("train[3]", "train[13]")
    assert threes.test.labels.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_the_sets_of_the_mnist_family_are_not_confused(tmp_path: Path) -> None:
    fashion = write_idx_files(tmp_path / "FashionMNIST/raw", seed=1)
    kuzushiji = write_idx_files(tmp_path / "KMNIST/raw", seed=2)
    data = open_dataset("fashion-mnist", normal="ankle boot", data_dir=tmp_path)
    np.testing.assert_array_equal(stack_images(data.train), fashion[0][[9, 19]][..., None])
    assert data.test.kinds[:2] == ("t-shirt/top", "trouser")
    data = open_dataset("kmnist", normal="tsu", data_dir=tmp_path / "KMNIST/raw")
    np.testing.assert_array_equal(stack_images(data.train), kuzushiji[0][[3, 13]][..., None])
    assert named._find_idx("mnist", tmp_path / "KMNIST/raw") == []
    assert named._find_idx("fashion-mnist", tmp_path / "KMNIST") == []


@pytest.mark.parametrize("home", ["data", "keras/datasets"])
def test_mnist_is_read_from_keras_layouts(tmp_path: Path, home: str) -> None:
    x_train, y_train, x_test, y_test = write_idx_files(tmp_path / "unused")
    (tmp_path / home).mkdir(parents=True)
    np.savez(tmp_path / home / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset("mnist", normal="0", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(stack_images(data.train), x_train[[0, 10]][..., None])
    assert data.test.labels.tolist() == [0] + [1] * 9


def test_data_dir_takes_precedence_over_the_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_idx_files(tmp_path / "first/MNIST/raw", seed=1)
    second = write_idx_files(tmp_path / "second/MNIST/raw", seed=2)
    monkeypatch.setenv("ODDLENS_DATA", str(tmp_path / "first"))
    np.testing.assert_array_equal(open_dataset("mnist").train.images, first[0][..., None])
    data = open_dataset("mnist", data_dir=tmp_path / "second")
    np.testing.assert_array_equal(data.train.images, second[0][..., None])


def test_a_missing_set_is_downloaded_once_from_the_mirror(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = mirror
    x_train, *_ = write_idx_files(served / "mnist", gzipped=True)
    files = {f"{name}.gz": hashlib.md5((served / "mnist" / f"{name}.gz").read_bytes()).hexdigest() for name in IDX}
    monkeypatch.setitem(named.PUBLISHED_SETS, "mnist", dataclasses.replace(named.PUBLISHED_SETS["mnist"], files=files))
    monkeypatch.setenv("ODDLENS_MIRROR", f"{address}/")
    monkeypatch.delenv("ODDLENS_DATA", raising=False)
    np.testing.assert_array_equal(open_dataset("mnist").train.images, x_train[..., None])
    cache = tmp_path / "cache/oddlens/MNIST/raw"
    assert sorted(path.name for path in cache.iterdir()) == sorted(files)
    for name in files:
        (served / "mnist" / name).unlink()
    assert len(open_dataset("mnist").test) == 10


@pytest.mark.parametrize(
    ("name", "files"), [("mnist", "MNIST/raw: train-images-idx3-ubyte, "), ("cifar10", "cifar-10-batches-py")]
)
def test_the_error_without_data_and_network_names_folder_files_and_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("ODDLENS_MIRROR", f"http://127.0.0.1:{port}")
    with pytest.raises(DataNotFoundError) as raised:
        open_dataset(name, data_dir=tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    for part in (f"{name}: is not below {tmp_path / 'data'}", files, "Connection refused", "--data", "oddlens demo"):
        assert part in message


def test_downloading_without_pooch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[train\]"):
        open_dataset("mnist", data_dir=tmp_path)


def test_real_mnist_has_its_published_counts(real_data: Path) -> None:
    data = open_dataset("mnist", normal="1", data_dir=real_data)
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (6742, 10_000, 8865)
    assert isinstance(data.test.images, np.ndarray)
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)
