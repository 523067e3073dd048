"""Sets known by name: found in users' layouts, downloaded whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import os
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    IDX,
    picture,
    pixels_of,
    published_pickle,
    small_cifar,
    small_idx,
    write_cifar,
)
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset
from oddlens.data.sources import named
from oddlens.data.sources.cifar import BATCHES, CLASSES
from oddlens.data.sources.named import fetch
from oddlens.errors import DataError, DataNotFoundError, MissingExtraError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "raw", ""])
def test_mnist_is_found_where_torchvision_keeps_it(tmp_path: Path, place: str, packed: bool) -> None:
    x_train, _, x_test, _ = small_idx(tmp_path / "data" / place, packed)
    data = open_dataset("mnist", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(data.train.images, x_train[..., None])
    np.testing.assert_array_equal(data.test.images, x_test[..., None])
    assert data.train.kinds == tuple("01234567890123456789")
    assert (data.name, data.normal, data.test.labels.sum()) == ("mnist", "all", 0)
    one = open_dataset("mnist", normal="3", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(pixels_of(one.train), x_train[[3, 13]][..., None])
    assert one.train.names == ("train[3]", "train[13]")
    assert one.test.labels.tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]


def test_the_sets_of_the_mnist_family_are_not_taken_for_each_other(tmp_path: Path) -> None:
    fashion, kuzushiji = small_idx(tmp_path / "FashionMNIST/raw", seed=1), small_idx(tmp_path / "KMNIST/raw", seed=2)
    data = open_dataset("fashion-mnist", normal="ankle boot", data_dir=tmp_path)
    np.testing.assert_array_equal(pixels_of(data.train), fashion[0][[9, 19]][..., None])
    assert data.test.kinds[:2] == ("t-shirt/top", "trouser")
    data = open_dataset("kmnist", normal="tsu", data_dir=tmp_path / "KMNIST/raw")
    np.testing.assert_array_equal(pixels_of(data.train), kuzushiji[0][[3, 13]][..., None])
    assert named._find_idx("mnist", tmp_path / "KMNIST/raw") == []
    assert named._find_idx("fashion-mnist", tmp_path / "KMNIST") == []


@pytest.mark.parametrize("home", ["data", "keras/datasets"])
def test_mnist_is_found_where_keras_keeps_it(tmp_path: Path, home: str) -> None:
    x_train, y_train, x_test, y_test = small_idx(tmp_path / "unused")
    (tmp_path / home).mkdir(parents=True)
    np.savez(tmp_path / home / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset("mnist", normal="0", data_dir=tmp_path / "data")
    np.testing.assert_array_equal(pixels_of(data.train), x_train[[0, 10]][..., None])
    assert data.test.labels.tolist() == [0] + [1] * 9


def test_the_environment_names_the_data_folder_and_data_dir_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = small_idx(tmp_path / "first/MNIST/raw", seed=1), small_idx(tmp_path / "second/MNIST/raw", seed=2)
    monkeypatch.setenv("ODDLENS_DATA", str(tmp_path / "first"))
    np.testing.assert_array_equal(open_dataset("mnist").train.images, first[0][..., None])
    data = open_dataset("mnist", data_dir=tmp_path / "second")
    np.testing.assert_array_equal(data.train.images, second[0][..., None])


@pytest.mark.parametrize("kind", ["binary", "published", "3", "4", "5"])
def test_cifar_s_layouts_give_equal_pixels_and_labels(tmp_path: Path, kind: str) -> None:
    batches = small_cifar()
    folder = "cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py"
    write_cifar(tmp_path / folder, batches, kind)
    data = open_dataset("cifar10", data_dir=tmp_path)
    rows = np.concatenate([batches[name][0] for name in BATCHES[:5]])
    np.testing.assert_array_equal(data.train.images, np.moveaxis(rows.reshape(-1, 3, 32, 32), 1, -1))
    labels = [label for name in BATCHES[:5] for label in batches[name][1]]
    assert data.train.kinds == tuple(CLASSES[label] for label in labels)
    assert isinstance(data.test.images, np.ndarray)
    assert data.test.images[4, 2, 5].tolist() == [int(batches["test_batch"][0][4, 69 + 1024 * c]) for c in range(3)]
    normal = data.train.kinds[7]
    chosen = open_dataset("cifar10", normal=normal, data_dir=tmp_path / folder)  # the folder itself is taken, too
    assert set(chosen.train.kinds) == {normal}
    assert chosen.test.labels.tolist() == [int(kind != normal) for kind in chosen.test.kinds]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_the_pickle_made_by_hand_for_these_tests_is_one() -> None:
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    batch = pickle.loads(published_pickle(data, [7, 0, 9]), encoding="latin1")
    np.testing.assert_array_equal(batch["data"], data)
    assert batch["labels"] == [7, 0, 9]


@pytest.mark.parametrize("kind", ["binary", "published"])
def test_cifar_is_read_from_its_archive_without_unpacking_it(tmp_path: Path, kind: str) -> None:
    batches = small_cifar()
    inside = "cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py"
    folder = write_cifar(tmp_path / "made" / inside, batches, kind)
    (folder / "readme.html").write_text("<html>")
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / f"cifar-10-{'binary' if kind == 'binary' else 'python'}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, inside)
    data = open_dataset("cifar10", data_dir=tmp_path / "data")
    expected = open_dataset("cifar10", data_dir=tmp_path / "made")
    np.testing.assert_array_equal(data.train.images, expected.train.images)
    assert data.test.kinds == expected.test.kinds
    assert list((tmp_path / "data").iterdir()) == [archive]


def test_digits_are_split_in_the_same_way_every_time_and_twins_stay_together(digits: DataSet) -> None:
    again = open_dataset("digits")
    np.testing.assert_array_equal(digits.train.images, again.train.images)
    assert (len(digits.train), len(digits.test)) == (1300, 497)
    assert isinstance(digits.train.images, np.ndarray)
    assert digits.train.images.shape == (1300, 8, 8, 1)
    assert set(np.unique(digits.train.images)) == {round(level * 255 / 16) for level in range(17)}
    assert digits.normal == "all"
    assert set(digits.train.kinds) == set("0123456789") == set(digits.test.kinds)
    three = open_dataset("digits", normal="3")
    assert set(three.train.kinds) == {"3"}
    assert three.test.labels.tolist() == [int(kind != "3") for kind in digits.test.kinds]


def test_tiles_are_labelled_and_every_defect_has_its_mask() -> None:
    tiles = open_dataset("tiles")
    assert tiles.normal == "good"
    assert set(tiles.train.kinds) == {"good"}
    assert len(set(tiles.test.kinds)) == 6
    for i, kind in enumerate(tiles.test.kinds):
        marked = tiles.test.mask(i)
        assert tiles.test.labels[i] == (kind != "good") == (marked is not None)
        if marked is not None:
            assert marked.any()
            assert marked.shape == tiles.test.image(i).shape[:2]
    with pytest.raises(DataError, match=r"the classes are: good$"):
        open_dataset("tiles", normal="scratch")


def test_a_name_is_a_folder_only_where_it_is_written_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "digits/a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("digits").train) == 1300
    assert len(open_dataset("./digits").train) == 1
    assert len(open_dataset(Path("digits")).train) == 1
    monkeypatch.chdir(tmp_path.parent)
    assert len(open_dataset(Path("digits")).train) == 1300


def test_unknown_names_and_classes_are_answered_with_the_nearest_one(tmp_path: Path) -> None:
    small_idx(tmp_path / "MNIST/raw")
    with pytest.raises(DataNotFoundError, match="is no folder, file or known data set; did you mean 'fashion-mnist'"):
        open_dataset("fashionmnist")
    with pytest.raises(DataNotFoundError, match="name one of: digits, tiles, mnist, fashion-mnist, kmnist, cifar10"):
        open_dataset("parts/of/tuesday")
    with pytest.raises(DataError, match=r"mnist: has no class 'three'; the classes are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        open_dataset("mnist", normal="three", data_dir=tmp_path)
    with pytest.raises(DataError, match="is one file; give a folder of images"):
        open_dataset(picture(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        open_dataset("x" * 5000)


# Downloads, from servers on this machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; /cut/ announces more than it sends."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/cut/"):
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        else:
            super().do_GET()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_set_that_is_missing_is_downloaded_once_from_the_mirror(
    tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = mirror
    x_train, *_ = small_idx(served / "mnist", packed=True)
    files = {f"{name}.gz": hashlib.md5((served / "mnist" / f"{name}.gz").read_bytes()).hexdigest() for name in IDX}
    monkeypatch.setitem(named.PUBLISHED_SETS, "mnist", dataclasses.replace(named.PUBLISHED_SETS["mnist"], files=files))
    monkeypatch.setenv("ODDLENS_MIRROR", f"{address}/")
    monkeypatch.delenv("ODDLENS_DATA", raising=False)
    np.testing.assert_array_equal(open_dataset("mnist").train.images, x_train[..., None])
    kept = tmp_path / "cache/oddlens/MNIST/raw"
    assert sorted(path.name for path in kept.iterdir()) == sorted(files)
    for name in files:
        (served / "mnist" / name).unlink()
    assert len(open_dataset("mnist").test) == 10


def test_a_file_appears_only_when_it_is_whole_and_the_published_one(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    served, address = mirror
    (served / "a.gz").write_bytes(b"hello")
    path = fetch(f"{address}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "data")
    assert path == tmp_path / "data/a.gz"
    assert path.read_bytes() == b"hello"
    path.unlink()
    with pytest.raises(DataError, match=r"is not the published file \(its MD5 sum is not 0000"):
        fetch(f"{address}/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch(f"{address}/cut/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(
        DataNotFoundError,
        match=r"cannot be downloaded \(404 .*not found",
    ):
        fetch(f"{address}/b.gz", "0" * 32, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(DataNotFoundError, match=r"http://127\.0\.0\.1:\d+/a\.gz "):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.gz", "0" * 32, tmp_path, patience=0.2)
    assert not any(tmp_path.glob("*.gz"))


@pytest.mark.parametrize(
    ("name", "wanted"), [("mnist", "MNIST/raw: train-images-idx3-ubyte, "), ("cifar10", "cifar-10-batches-py")]
)
def test_without_data_and_network_the_error_names_folder_files_and_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("ODDLENS_MIRROR", f"http://127.0.0.1:{port}")
    with pytest.raises(DataNotFoundError) as raised:
        open_dataset(name, data_dir=tmp_path / "data")
    message = str(raised.value)
    assert "\n" not in message
    for part in (f"{name}: is not below {tmp_path / 'data'}", wanted, "Connection refused", "--data", "oddlens demo"):
        assert part in message


def test_an_address_that_is_none_and_a_folder_that_cannot_be_are_reported(
    tmp_path: Path, mirror: tuple[Path, str]
) -> None:
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch("mirror.example/a.gz", "0" * 32, tmp_path)
    (mirror[0] / "a.gz").write_bytes(b"hello")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written to"):
        fetch(f"{mirror[1]}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "file")


def test_downloading_without_pooch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[train\]"):
        open_dataset("mnist", data_dir=tmp_path)


# Real data


def test_real_cifar_is_the_same_in_both_layouts_and_as_files(real_data: Path, tmp_path: Path) -> None:
    binary = open_dataset("cifar10", data_dir=real_data / "cifar-10-batches-bin")
    pickled = open_dataset("cifar10", data_dir=real_data / "cifar-10-batches-py")
    for one, other in ((binary.train, pickled.train), (binary.test, pickled.test)):
        np.testing.assert_array_equal(one.images, other.images)
        assert one.kinds == other.kinds
    assert (len(binary.train), len(binary.test)) == (50_000, 10_000)
    for i in range(300):
        file = tmp_path / "train" / binary.test.kinds[i] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(binary.test.image(i)).save(file)
    files = open_dataset(tmp_path, normal="airplane").train
    spec = files.choose_spec(None)
    assert (spec.height, spec.width, spec.channels) == (32, 32, 3)
    planes = binary.test.subset(np.flatnonzero(np.array(binary.test.kinds[:300]) == "airplane"))
    np.testing.assert_array_equal(files.load(spec), planes.images)


def test_real_mnist_has_its_published_counts(real_data: Path) -> None:
    data = open_dataset("mnist", normal="1", data_dir=real_data)
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (6742, 10_000, 8865)
    assert isinstance(data.test.images, np.ndarray)
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_real_magnetic_tiles_pair_every_defect_with_a_mask_of_its_size(real_data: Path) -> None:
    data = open_dataset(real_data / "magnetic-tile")
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (663, 504, 293)
    infos = data.test.infos()
    for i in np.flatnonzero(data.test.labels)[::7].tolist():
        marked = data.test.mask(i)
        assert marked is not None
        assert marked.shape == (infos[i].height, infos[i].width)
    dev = open_dataset(os.fspath(real_data / "magnetic-tile-dev"))
    assert (len(dev.train), len(dev.test), dev.normal) == (0, 177, "good")
