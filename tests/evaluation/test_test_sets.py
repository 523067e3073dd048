"""Labelled test sets with corrupted and foreign images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_image, write_mvtec

from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.evaluation import corruptions, test_sets


def test_every_corruption_is_in_the_test_set_with_the_normal_images(digits_detector: Detector, digits: DataSet) -> None:
    images = test_sets.build_test_set(digits, digits_detector.spec, seed=0, distort=True)
    kinds = [test_sets.NORMAL, *corruptions.DISTORTIONS, *corruptions.PATTERNS]
    assert list(dict.fromkeys(images.kinds)) == kinds
    assert all(images.kinds.count(kind) == len(digits.test) for kind in kinds)
    np.testing.assert_array_equal(images.labels == 0, np.array(images.kinds) == test_sets.NORMAL)


def test_without_distortion_the_test_set_is_the_data_sets_own(digits_detector: Detector, digits: DataSet) -> None:
    assert test_sets.build_test_set(digits, digits_detector.spec, seed=0, distort=False) is digits.test


def test_the_images_of_a_plain_folder_are_normal_test_images(tmp_path: Path) -> None:
    for name in ("day/1.png", "day/2.png", "made/good/1.png", "mixed/1.png", "mixed/dent/1.png", "bad/dent/1.png"):
        write_image(tmp_path / name)
    np.save(tmp_path / "day.npy", np.zeros((3, 8, 8), np.uint8))
    lines: list[str] = []
    for name, count in (("day", 2), ("made", 1), ("day.npy", 3)):
        data = test_sets.with_test_images(open_dataset(tmp_path / name), lines.append)
        assert data.test.labels.tolist() == [0] * count
        assert lines.pop() == f"{tmp_path / name}: has no classes, so all {count} images count as normal"
    for name in ("mixed", "bad"):
        with pytest.raises(DataError, match="has the folders dent and no part `test`, so it is not clear which"):
            test_sets.with_test_images(open_dataset(tmp_path / name))
    parts = open_dataset(write_mvtec(tmp_path / "mvtec"))
    assert test_sets.with_test_images(parts, lines.append) is parts
    write_image(tmp_path / "part/train/good/1.png")
    assert len(test_sets.with_test_images(open_dataset(tmp_path / "part"), lines.append).test) == 0
    assert lines == []


def test_foreign_images_are_converted_and_at_most_as_many_as_normal_ones(
    digits_detector: Detector, digits: DataSet
) -> None:
    few = replace(digits, test=digits.test.subset(np.arange(5)))
    foreign = np.full((9, 32, 32, 3), 200, np.uint8)
    images = test_sets.build_test_set(few, digits_detector.spec, seed=0, distort=True, foreign=foreign)
    index = np.flatnonzero(np.array(images.kinds) == "foreign")
    assert len(index) == 5
    assert images.labels[index].tolist() == [1] * 5
    assert images.subset(index).load(digits_detector.spec).shape == (5, 8, 8, 1)


def test_corrupted_images_belong_to_the_group_of_their_original(digits_detector: Detector, digits: DataSet) -> None:
    test = replace(digits.test.subset(np.arange(3)), groups=("left", "right", "left"), grouped_by="folder")
    images = test_sets.build_test_set(replace(digits, test=test), digits_detector.spec, seed=0, distort=True)
    assert images.groups == ("left", "right", "left") * (len(images) // 3)
    assert images.grouped_by == "folder"
