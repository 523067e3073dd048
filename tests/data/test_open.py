"""What a user names becomes a data set, or an error that names the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import (
    write_idx_files,
    write_image,
)

from oddlens.data.open import open_dataset
from oddlens.errors import DataError, DataNotFoundError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


def test_a_name_is_a_folder_only_if_it_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "digits/a.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("digits").train) == 1300
    assert len(open_dataset("./digits").train) == 1
    assert len(open_dataset(Path("digits")).train) == 1
    monkeypatch.chdir(tmp_path.parent)
    assert len(open_dataset(Path("digits")).train) == 1300


def test_errors_for_unknown_names_and_classes_suggest_the_nearest_one(tmp_path: Path) -> None:
    write_idx_files(tmp_path / "MNIST/raw")
    with pytest.raises(DataNotFoundError, match="is no folder, file or known data set; did you mean 'fashion-mnist'"):
        open_dataset("fashionmnist")
    with pytest.raises(DataNotFoundError, match="name one of: digits, tiles, mnist, fashion-mnist, kmnist, cifar10"):
        open_dataset("parts/of/tuesday")
    with pytest.raises(DataError, match=r"mnist: has no class 'three'; the classes are: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        open_dataset("mnist", normal="three", data_dir=tmp_path)
    with pytest.raises(DataError, match="is a single file; give a folder of images"):
        open_dataset(write_image(tmp_path / "a.png"))
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        open_dataset("x" * 5000)
