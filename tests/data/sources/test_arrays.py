"""Array files become data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    stack_images,
)

from oddlens.data.open import open_dataset
from oddlens.errors import DataError, ImageError


def test_all_images_of_a_file_with_one_array_are_normal(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 4096, (6, 9, 7), dtype=np.uint16)
    np.save(tmp_path / "parts.npy", array)
    np.savez_compressed(tmp_path / "parts.npz", anything=array)
    for name in ("parts.npy", "parts.npz"):
        data = open_dataset(str(tmp_path / name))
        np.testing.assert_array_equal(stack_images(data.train), array[..., None])
        assert data.train.names[5] == f"{tmp_path / name}[5]"
        assert (data.name, data.normal, len(data.test)) == ("parts", "good", 0)
        assert data.train.choose_spec(None).value_max == 4095
        with pytest.raises(DataError, match="has no classes"):
            open_dataset(str(tmp_path / name), normal="3")


def test_keras_layout_is_read_from_any_npz_file(tmp_path: Path, rng: np.random.Generator) -> None:
    x_train, x_test = (rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (12, 4))
    y_train, y_test = np.arange(12)[:, None] % 3, np.array([2, 0, 1, 2])
    np.savez(tmp_path / "mine.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset(str(tmp_path / "mine.npz"), normal="2")
    np.testing.assert_array_equal(stack_images(data.train), x_train[2::3][..., None])
    assert data.train.names == ("train[2]", "train[5]", "train[8]", "train[11]")
    assert data.test.kinds == ("2", "0", "1", "2")
    assert data.test.labels.tolist() == [0, 1, 1, 0]


def test_arrays_that_are_not_images_or_do_not_match_are_refused(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(DataError, match=r"contains the arrays a, b; save one array of images, or x_train"):
        open_dataset(tmp_path / "two.npz")
    np.savez(tmp_path / "short.npz", x_train=images, y_train=np.zeros(3, int), x_test=images, y_test=np.zeros(4, int))
    with pytest.raises(DataError, match=r"labels of shape \(3,\) and type int64 for images of shape \(4, 8, 8\)"):
        open_dataset(tmp_path / "short.npz")
    np.save(tmp_path / "first.npy", np.zeros((4, 3, 8, 8), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"first\.npy: .*channels must be last"):
        open_dataset(tmp_path / "first.npy")
