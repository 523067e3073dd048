"""CIFAR-10 is read from all layouts in which it is published."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    python2_pickle,
    random_cifar_batches,
    write_cifar,
)
from PIL import Image

from oddlens.data.open import open_dataset
from oddlens.data.sources.cifar import BATCHES, CLASSES

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


@pytest.mark.parametrize("kind", ["binary", "published", "3", "4", "5"])
def test_all_cifar_layouts_give_equal_pixels_and_labels(tmp_path: Path, kind: str) -> None:
    batches = random_cifar_batches()
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
    subset = open_dataset("cifar10", normal=normal, data_dir=tmp_path / folder)  # data_dir may be the folder itself
    assert set(subset.train.kinds) == {normal}
    assert subset.test.labels.tolist() == [int(kind != normal) for kind in subset.test.kinds]


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_the_handwritten_pickle_of_these_tests_is_valid() -> None:
    data = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    batch = pickle.loads(python2_pickle(data, [7, 0, 9]), encoding="latin1")
    np.testing.assert_array_equal(batch["data"], data)
    assert batch["labels"] == [7, 0, 9]


@pytest.mark.parametrize("kind", ["binary", "published"])
def test_cifar_is_read_from_its_archive_without_extracting_it(tmp_path: Path, kind: str) -> None:
    batches = random_cifar_batches()
    inside = "cifar-10-batches-bin" if kind == "binary" else "cifar-10-batches-py"
    folder = write_cifar(tmp_path / "extracted" / inside, batches, kind)
    (folder / "readme.html").write_text("<html>")
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / f"cifar-10-{'binary' if kind == 'binary' else 'python'}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, inside)
    data = open_dataset("cifar10", data_dir=tmp_path / "data")
    expected = open_dataset("cifar10", data_dir=tmp_path / "extracted")
    np.testing.assert_array_equal(data.train.images, expected.train.images)
    assert data.test.kinds == expected.test.kinds
    assert list((tmp_path / "data").iterdir()) == [archive]


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
