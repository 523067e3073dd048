"""What a user names becomes a data set, or an error that names the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_files import (
    write_idx_files,
    write_image,
)

from oddlens.data.open import open_dataset, open_images
from oddlens.data.sources.named import NAMES
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError
from oddlens.recipes.run import find_recipe, recipe_names

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_both_a_folder_and_a_data_set_is_asked_about(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"write \./{name} for the folder, or dataset:{name} for the data set"):
        open_dataset(name)
    assert open_dataset(f"./{name}").train.names == (f"./{name}/a.png",)
    assert len(open_dataset(Path(name)).train) == 1
    with pytest.raises(DataError, match="both a folder"):
        Detector().fit(name)


def test_both_ways_to_write_a_named_set_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, prefixed = open_dataset("digits"), open_dataset("dataset:digits")
    assert (len(plain.train), plain.train.source) == (1300, "digits")
    assert (len(prefixed.train), prefixed.train.source) == (1300, "digits")
    assert len(open_dataset(Path("digits")).train) == 1300
    with pytest.raises(DataNotFoundError, match="'digit' is not a data set; name one of: digits, tiles"):
        open_dataset("dataset:digit")
    (tmp_path / "digits").write_text("a file is no data set, so the name is still plain")
    assert len(open_dataset("digits").train) == 1300


def test_a_folder_whose_name_begins_like_a_data_set_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits2", "MNIST", "dataset:parts"):
        write_image(tmp_path / name / "a.png")
        assert open_dataset(name).train.names == (f"{name}/a.png",)


def test_recipes_name_their_data_sets_whatever_lies_in_the_working_folder() -> None:
    for name in recipe_names():
        data = find_recipe(name).data
        for source in filter(None, (data.source, data.foreign)):
            assert source.removeprefix("dataset:") in NAMES
            assert source.startswith("dataset:")


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "parts/a.png")
    write_idx_files(tmp_path / "sets/MNIST/raw")
    assert open_dataset("~/parts").train.names == (f"{tmp_path}/parts/a.png",)
    assert open_images(["~/parts", Path("~/parts/a.png")]).names == (f"{tmp_path}/parts/a.png",) * 2
    assert len(open_dataset("mnist", data_dir="~/sets").train) > 0
    monkeypatch.setenv("ODDLENS_DATA", "~/sets")
    assert len(open_dataset("mnist").train) > 0
    with pytest.raises(DataNotFoundError, match="~no-such-user/parts: is no folder"):
        open_dataset("~no-such-user/parts")


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


def test_no_class_may_be_called_like_all_classes(tmp_path: Path) -> None:
    for kind in ("all", "dent"):
        write_image(tmp_path / kind / "a.png")
    with pytest.raises(DataError, match="the normal class cannot be called 'all', which means every class"):
        open_dataset(tmp_path, normal="all")
