"""IDX files are read plain and gzipped; damaged ones are in tests/hostile."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from dataset_files import idx_bytes

from oddlens.data.sources.idx import read_idx
from oddlens.errors import DataError


@pytest.mark.parametrize("shape", [(4,), (3, 5, 7), (0, 28, 28)])
def test_plain_and_gzipped_files_give_the_same_array(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array)))
    for name in ("plain", "packed.gz"):
        pixels = read_idx(tmp_path / name, len(shape))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, array)


def test_a_file_with_a_different_number_of_dimensions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"labels: is not a valid IDX file .* with 3 dimensions"):
        read_idx(path, 3)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: is not a valid IDX file \(.*No such file"):
        read_idx(tmp_path / "none", 3)
