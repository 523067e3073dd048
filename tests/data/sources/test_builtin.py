"""The data sets that need no download."""

from __future__ import annotations

import numpy as np
import pytest

from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset
from oddlens.errors import DataError


def test_digits_always_have_the_same_split(digits: DataSet) -> None:
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


def test_tiles_are_labelled_and_every_defect_has_a_mask() -> None:
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
