"""Folders become data sets with the right labels and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    grey_levels,
    write_image,
    write_mask,
    write_mvtec,
)
from PIL import Image

from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.open import open_dataset, open_images
from oddlens.data.sources.folders import folder_files
from oddlens.data.sources.mask_files import NO_CLASS, NO_IMAGE
from oddlens.errors import DataError, DataNotFoundError, ImageError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


def test_mvtec_layout_is_labelled_and_masks_are_paired(tmp_path: Path) -> None:
    data = open_dataset(write_mvtec(tmp_path / "carpet"))
    assert (data.name, data.normal) == ("carpet", "good")
    assert grey_levels(data.train) == [100, 101, 102]
    assert data.train.labels.tolist() == [0, 0, 0]
    assert data.test.kinds == ("bent", "good", "good", "scratch", "scratch")
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]
    assert grey_levels(data.test) == [160, 120, 121, 140, 141]
    assert [data.test.mask(i) is None for i in range(5)] == [True, True, True, False, False]
    for i in (0, 1):
        expected = np.zeros((8, 8), dtype=bool)
        expected[i : i + 2, :5] = True
        np.testing.assert_array_equal(data.test.mask(3 + i), expected)


def test_the_files_of_a_data_set_are_read_as_that_data_set(tmp_path: Path) -> None:
    pixels, mask = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3), np.eye(4, 5, dtype=bool)
    kinds, masks = ("cut", "good", "cut"), (mask, None, None)
    test = ImageSet.from_array(pixels[3:], kind=kinds, label=[1, 0, 1], masks=masks)
    files = folder_files(DataSet("parts", ImageSet.from_array(pixels[:3, :, :, :1], kind="good"), test, "good"))
    for name, image in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    data = open_dataset(tmp_path)
    assert (data.normal, data.unused_masks, data.left_out) == ("good", {}, {})
    assert data.test.kinds == ("cut", "cut", "good")
    for i in range(3):
        np.testing.assert_array_equal(data.train.image(i), pixels[i, :, :, :1])
        np.testing.assert_array_equal(data.test.image(i), pixels[[3, 5, 4][i]])
    marked = data.test.mask(0)
    assert marked is not None
    np.testing.assert_array_equal(marked, mask)
    assert data.test.mask(1) is None


def test_a_mask_may_have_a_different_suffix_and_be_in_a_subfolder(tmp_path: Path) -> None:
    write_image(tmp_path / "train/good/0.png")
    write_image(tmp_path / "test/cut/left/0.jpg")
    write_image(tmp_path / "test/cut/right/0.jpg")
    write_mask(tmp_path / "ground_truth/cut/right/0_mask.bmp", (slice(0, 1), slice(0, 1)))
    test = open_dataset(tmp_path).test
    assert test.mask(0) is None
    marked = test.mask(1)
    assert marked is not None
    assert marked.sum() == 1


def test_masks_are_in_one_set_and_others_are_named(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path)
    write_mask(folder / "Masks/bent/000.bmp", (slice(0, 1), slice(0, 1)))
    write_mask(folder / "ground_truth/scratch/7_mask.png", (slice(0, 1), slice(0, 1)))
    write_mask(folder / "ground_truth/crack/000_mask.png", (slice(0, 1), slice(0, 1)))
    data = open_dataset(folder)
    assert [data.test.mask(i) is None for i in range(5)] == [False, True, True, False, False]
    assert len(data.test.mask_sets) == 1
    assert data.unused_masks == {
        NO_CLASS: (f"{folder}/ground_truth/crack/000_mask.png",),
        NO_IMAGE: (f"{folder}/ground_truth/scratch/7_mask.png",),
    }


def test_several_masks_of_one_image_matter_only_where_masks_are_read(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path)
    write_mask(folder / "ground_truth/scratch/000_gt.png", (slice(0, 1), slice(0, 1)))
    data = open_dataset(folder)
    assert len(data.train) == 3
    with pytest.raises(DataError, match=r"several masks.*scratch/000_gt\.png and .*scratch/000_mask\.png"):
        data.test.mask(4)


def test_btads_layout_opens_with_its_masks(tmp_path: Path) -> None:
    for name in ("train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp"):
        write_image(tmp_path / name)
    for i in range(2):
        write_mask(tmp_path / f"ground_truth/ko/{i:04}.png", (slice(i, i + 2), slice(0, 5)))
    data = open_dataset(tmp_path)
    assert (data.normal, len(data.train), data.unused_masks) == ("ok", 1, {})
    assert data.test.labels.tolist() == [1, 1, 0]
    assert [mask is not None for mask in data.test.masks] == [True, True, False]


def test_visas_layout_opens_with_its_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "candle/Data/Images/Normal/0000.JPG")
    for i in range(2):
        write_image(tmp_path / f"candle/Data/Images/Anomaly/{i:03}.JPG")
        mask = np.zeros((8, 8), np.uint8)
        mask[i, :3] = 1 + i
        (tmp_path / "candle/Data/Masks/Anomaly").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"candle/Data/Masks/Anomaly/{i:03}.png")
    write_mask(tmp_path / "candle/Data/Masks/Anomaly/007.png", (slice(0, 1), slice(0, 1)))
    for source in (tmp_path / "candle", tmp_path / "candle/Data"):
        data = open_dataset(source)
        assert (data.name, data.normal, len(data.train)) == (source.name, "Normal", 1)
        assert data.test.kinds == ("Anomaly", "Anomaly", "Normal")
        assert data.test.labels.tolist() == [1, 1, 0]
        marks = [data.test.mask(i) for i in range(3)]
        assert [None if mask is None else int(mask.sum()) for mask in marks] == [3, 3, None]
        assert data.unused_masks == {NO_IMAGE: (f"{tmp_path}/candle/Data/Masks/Anomaly/007.png",)}
    with pytest.raises(DataError, match=r"folder of data sets; give one of them: candle$"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="has no class 'good'"):
        open_dataset(tmp_path / "candle", normal="good")


def test_a_folder_with_only_a_test_part_has_no_training_images(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path)
    (folder / "train").rename(tmp_path.parent / "elsewhere")
    data = open_dataset(folder)
    assert len(data.train) == 0
    assert data.normal == "good"
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]


def test_class_folders_in_train_and_test_are_labelled_by_the_normal_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i, kind in enumerate(("cat", "dog", "ship")):
            write_image(tmp_path / part / kind / "a.png", 10 * i + (part == "test"))
    data = open_dataset(tmp_path, normal="dog")
    assert (data.normal, grey_levels(data.train), data.train.kinds) == ("dog", [10], ("dog",))
    assert data.test.kinds == ("cat", "dog", "ship")
    assert data.test.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"did you mean 'dog'\? the classes are: cat, dog, ship$"):
        open_dataset(tmp_path, normal="dgo")
    with pytest.raises(DataError, match=r"has no class 'good'; choose the normal class from: cat, dog, ship$"):
        open_dataset(tmp_path)


def test_the_only_training_class_is_the_normal_one(tmp_path: Path) -> None:
    for path in ("train/intact", "test/intact", "test/broken"):
        write_image(tmp_path / path / "a.png")
    data = open_dataset(tmp_path)
    assert data.normal == "intact"
    assert dict(zip(data.test.kinds, data.test.labels.tolist(), strict=True)) == {"broken": 1, "intact": 0}
    (tmp_path / "test/intact").rename(tmp_path / "test/good")
    with pytest.raises(DataError, match="train: has no class 'good'"):  # is "intact" the same as "good"?
        open_dataset(tmp_path)


def test_a_test_part_may_have_defects_alone(tmp_path: Path) -> None:
    for path in ("test/bent", "test/scratch"):
        write_image(tmp_path / path / "a.png")
    for normal in (None, "good"):
        data = open_dataset(tmp_path, normal=normal)
        assert (data.normal, data.test.labels.tolist(), data.test.kinds) == ("good", [1, 1], ("bent", "scratch"))
    write_image(tmp_path / "train/a.png")
    with pytest.raises(DataError, match=r"from: bent, scratch, or choose 'good' if all of these are defects$"):
        open_dataset(tmp_path)  # one of the two may be the class of the training images
    assert open_dataset(tmp_path, normal="good").test.labels.tolist() == [1, 1]
    assert open_dataset(tmp_path, normal="bent").test.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="has no class 'goo'"):
        open_dataset(tmp_path, normal="goo")


def test_training_images_need_no_class_folder(tmp_path: Path) -> None:
    for path in ("train/a.png", "train/b.png", "test/good/c.png", "test/bad/d.png"):
        write_image(tmp_path / path)
    data = open_dataset(tmp_path)
    assert (len(data.train), data.normal, data.test.labels.tolist()) == (2, "good", [1, 0])
    write_image(tmp_path / "test/loose.png")
    with pytest.raises(DataError, match=r"loose\.png: is outside the class folders"):
        open_dataset(tmp_path)


def test_the_normal_class_folder_is_for_training_and_all_are_for_testing(tmp_path: Path) -> None:
    for i, kind in enumerate(("apple", "pear", "plum")):
        write_image(tmp_path / kind / "1.png", i)
        write_image(tmp_path / kind / "2.png", 10 + i)
    data = open_dataset(tmp_path, normal="pear")
    assert grey_levels(data.train) == [1, 11]
    assert data.test.kinds == ("apple", "apple", "pear", "pear", "plum", "plum")
    assert data.test.labels.tolist() == [1, 1, 0, 0, 1, 1]


def test_a_class_folder_called_good_is_the_normal_class(tmp_path: Path) -> None:
    for kind in ("good", "scratched"):
        write_image(tmp_path / kind / "1.png")
    data = open_dataset(tmp_path)
    assert (data.normal, len(data.train), data.test.labels.tolist()) == ("good", 1, [0, 1])
    write_image(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png: is outside"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name", ["Good", "OK", "ok", "Normal"])
def test_folders_that_look_like_classes_are_asked_about(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name / "a.png")
    assert len(open_dataset(tmp_path).train) == 1
    write_image(tmp_path / "Bad/a.png")
    with pytest.raises(DataError, match=f"has a folder '{name}' beside 1 more.*add --normal {name}"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, normal=name).test.labels.tolist() == [1, 0]


def test_in_a_folder_without_classes_all_images_are_normal(tmp_path: Path) -> None:
    for path in ("monday/line 2/b.png", "tuesday/c.TIFF", "a.JPG"):
        write_image(tmp_path / path)
    data = open_dataset(tmp_path)
    assert data.train.names == tuple(
        f"{tmp_path}/{name}" for name in ("a.JPG", "monday/line 2/b.png", "tuesday/c.TIFF")
    )
    assert (len(data.test), data.normal) == (0, "good")


def test_layouts_that_would_train_on_defects_are_refused(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "sets/carpet")
    write_mvtec(tmp_path / "sets/leather")
    with pytest.raises(DataError, match=r"folder of data sets; give one of them: carpet, leather$"):
        open_dataset(tmp_path / "sets")
    write_image(tmp_path / "capital/Train/good/a.png")
    with pytest.raises(DataError, match="has 'Train' but neither 'train' nor 'test'"):
        open_dataset(tmp_path / "capital")
    write_mask(tmp_path / "masked/ground_truth/a_mask.png", (slice(0, 1), slice(0, 1)))
    write_image(tmp_path / "masked/a.png")
    with pytest.raises(DataError, match="has 'ground_truth' but neither"):
        open_dataset(tmp_path / "masked")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "._b.png")
    write_image(tmp_path / ".cache/c.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "d.png.bak"):
        (tmp_path / name).write_text("?")
    (tmp_path / "e.png").mkdir()  # a folder, whatever its name
    assert open_images([tmp_path]).names == (f"{tmp_path}/a.png",)


def test_errors_for_empty_folders_and_missing_paths_name_the_fix(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for open_it, missing in (
        (open_dataset, "nowhere: is no folder, file or known data set"),
        (lambda path: open_images([path]), "nowhere: does not exist"),
    ):
        with pytest.raises(DataNotFoundError, match=r"empty: contains no images; add some \(\.bmp, \.gif, .*\.webp\)"):
            open_it(tmp_path / "empty")
        with pytest.raises(DataNotFoundError, match=missing):
            open_it(tmp_path / "nowhere")
    (tmp_path / "empty/train/good").mkdir(parents=True)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(DataNotFoundError, match="train/good: contains no images"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataNotFoundError, match="no images to open"):
        open_images([])


def test_images_are_in_the_order_of_the_sources_and_folders_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.png", "img9.png", "sub/img1.png"):
        write_image(tmp_path / "lot" / name)
    single = write_image(tmp_path / "z.png")
    images = open_images([single, str(tmp_path / "lot"), single])
    names = (single, tmp_path / "lot/img9.png", tmp_path / "lot/img10.png", tmp_path / "lot/sub/img1.png", single)
    assert images.names == tuple(map(str, names))
    assert set(images.kinds) == {""}
    assert images.labels.tolist() == [0] * 5


def test_names_are_the_paths_as_the_user_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "lot/a.png")
    monkeypatch.chdir(tmp_path)
    for source, name in (("lot", "lot/a.png"), ("./lot/", "./lot/a.png"), ("lot/../lot", "lot/../lot/a.png")):
        assert open_images([source]).names == (name,)
        assert open_dataset(source).train.names == (name,)
    assert open_images(["./lot/a.png"]).names == ("./lot/a.png",)
    (tmp_path / "lot/a.png").write_text("damaged")
    with pytest.raises(ImageError, match=r"^\./lot/a\.png: is not a PNG"):
        open_images(["./lot"]).image(0)


def test_cycles_of_links_end(tmp_path: Path) -> None:
    write_image(tmp_path / "lot/deep/a.png")
    (tmp_path / "lot/deep/back").symlink_to(tmp_path / "lot")
    (tmp_path / "lot/self").symlink_to("self")
    (tmp_path / "lot/again").symlink_to(tmp_path / "lot/deep")
    (tmp_path / "lot/b.png").symlink_to(write_image(tmp_path / "elsewhere.png"))
    assert open_images([tmp_path / "lot"]).names == (f"{tmp_path}/lot/b.png", f"{tmp_path}/lot/deep/a.png")


def test_a_broken_link_is_reported_and_not_dropped(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    _, problems = open_images([tmp_path]).readable()
    assert [problem.name for problem in problems] == [str(tmp_path / "b.png")]


def test_real_magnetic_tiles_have_masks_of_the_size_of_their_images(real_data: Path) -> None:
    data = open_dataset(real_data / "magnetic-tile")
    assert (len(data.train), len(data.test), int(data.test.labels.sum())) == (663, 504, 293)
    infos = data.test.infos()
    for i in np.flatnonzero(data.test.labels)[::7].tolist():
        marked = data.test.mask(i)
        assert marked is not None
        assert marked.shape == (infos[i].height, infos[i].width)
    dev = open_dataset(str(real_data / "magnetic-tile-dev"))
    assert (len(dev.train), len(dev.test), dev.normal) == (0, 177, "good")
