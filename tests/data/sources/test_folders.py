"""Folders and array files become data sets, with the right labels and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    levels,
    mask,
    mvtec,
    picture,
    pixels_of,
)

from oddlens.data.open import open_dataset
from oddlens.data.sources.folders import open_images
from oddlens.errors import DataError, DataNotFoundError, ImageError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


def test_mvtec_s_layout_is_labelled_and_masks_are_paired(tmp_path: Path) -> None:
    data = open_dataset(mvtec(tmp_path / "carpet"))
    assert (data.name, data.normal) == ("carpet", "good")
    assert levels(data.train) == [100, 101, 102]
    assert data.train.labels.tolist() == [0, 0, 0]
    assert data.test.kinds == ("bent", "good", "good", "scratch", "scratch")
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]
    assert levels(data.test) == [160, 120, 121, 140, 141]
    assert [data.test.mask(i) is None for i in range(5)] == [True, True, True, False, False]
    for i in (0, 1):
        expected = np.zeros((8, 8), dtype=bool)
        expected[i : i + 2, :5] = True
        np.testing.assert_array_equal(data.test.mask(3 + i), expected)


def test_a_mask_may_have_another_suffix_than_its_image_and_lie_deeper(tmp_path: Path) -> None:
    picture(tmp_path / "train/good/0.png")
    picture(tmp_path / "test/cut/left/0.jpg")
    picture(tmp_path / "test/cut/right/0.jpg")
    mask(tmp_path / "ground_truth/cut/right/0_mask.bmp", (slice(0, 1), slice(0, 1)))
    test = open_dataset(tmp_path).test
    assert test.mask(0) is None
    marked = test.mask(1)
    assert marked is not None
    assert marked.sum() == 1


def test_a_folder_with_a_test_part_only_has_nothing_to_learn_from(tmp_path: Path) -> None:
    folder = mvtec(tmp_path)
    (folder / "train").rename(tmp_path.parent / "elsewhere")
    data = open_dataset(folder)
    assert len(data.train) == 0
    assert data.normal == "good"
    assert data.test.labels.tolist() == [1, 0, 0, 1, 1]


def test_class_folders_in_train_and_test_are_labelled_by_the_normal_class(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i, kind in enumerate(("cat", "dog", "ship")):
            picture(tmp_path / part / kind / "a.png", 10 * i + (part == "test"))
    data = open_dataset(tmp_path, normal="dog")
    assert (data.normal, levels(data.train), data.train.kinds) == ("dog", [10], ("dog",))
    assert data.test.kinds == ("cat", "dog", "ship")
    assert data.test.labels.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match=r"did you mean 'dog'\? the classes are: cat, dog, ship$"):
        open_dataset(tmp_path, normal="dgo")
    with pytest.raises(DataError, match=r"has no class 'good'; say which one is normal, of: cat, dog, ship$"):
        open_dataset(tmp_path)


def test_the_only_class_to_learn_from_is_the_normal_one(tmp_path: Path) -> None:
    for path in ("train/intact", "test/intact", "test/broken"):
        picture(tmp_path / path / "a.png")
    data = open_dataset(tmp_path)
    assert data.normal == "intact"
    assert dict(zip(data.test.kinds, data.test.labels.tolist(), strict=True)) == {"broken": 1, "intact": 0}
    (tmp_path / "test/intact").rename(tmp_path / "test/good")
    with pytest.raises(DataError, match="train: has no class 'good'"):  # is "intact" the same as "good"?
        open_dataset(tmp_path)


def test_training_images_may_lie_flat_beside_a_labelled_test_part(tmp_path: Path) -> None:
    for path in ("train/a.png", "train/b.png", "test/good/c.png", "test/bad/d.png"):
        picture(tmp_path / path)
    data = open_dataset(tmp_path)
    assert (len(data.train), data.normal, data.test.labels.tolist()) == (2, "good", [1, 0])
    picture(tmp_path / "test/loose.png")
    with pytest.raises(DataError, match=r"loose\.png: lies outside the class folders"):
        open_dataset(tmp_path)


def test_a_class_folder_is_learnt_from_and_all_are_tested(tmp_path: Path) -> None:
    for i, kind in enumerate(("apple", "pear", "plum")):
        picture(tmp_path / kind / "1.png", i)
        picture(tmp_path / kind / "2.png", 10 + i)
    data = open_dataset(tmp_path, normal="pear")
    assert levels(data.train) == [1, 11]
    assert data.test.kinds == ("apple", "apple", "pear", "pear", "plum", "plum")
    assert data.test.labels.tolist() == [1, 1, 0, 0, 1, 1]


def test_a_folder_called_good_beside_others_is_the_normal_class(tmp_path: Path) -> None:
    for kind in ("good", "scratched"):
        picture(tmp_path / kind / "1.png")
    data = open_dataset(tmp_path)
    assert (data.normal, len(data.train), data.test.labels.tolist()) == ("good", 1, [0, 1])
    picture(tmp_path / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png: lies outside"):
        open_dataset(tmp_path)


def test_in_a_folder_without_known_classes_everything_is_normal(tmp_path: Path) -> None:
    for path in ("monday/line 2/b.png", "tuesday/c.TIFF", "a.JPG"):
        picture(tmp_path / path)
    data = open_dataset(tmp_path)
    assert data.train.names == tuple(
        f"{tmp_path}/{name}" for name in ("a.JPG", "monday/line 2/b.png", "tuesday/c.TIFF")
    )
    assert (len(data.test), data.normal) == (0, "good")


def test_layouts_that_would_teach_defects_as_normal_are_refused(tmp_path: Path) -> None:
    mvtec(tmp_path / "sets/carpet")
    mvtec(tmp_path / "sets/leather")
    with pytest.raises(DataError, match=r"folder of data sets; name one of them: carpet, leather$"):
        open_dataset(tmp_path / "sets")
    picture(tmp_path / "capital/Train/good/a.png")
    with pytest.raises(DataError, match="has 'Train' but neither 'train' nor 'test'"):
        open_dataset(tmp_path / "capital")
    mask(tmp_path / "masked/ground_truth/a_mask.png", (slice(0, 1), slice(0, 1)))
    picture(tmp_path / "masked/a.png")
    with pytest.raises(DataError, match="has 'ground_truth' but neither"):
        open_dataset(tmp_path / "masked")


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "._b.png")
    picture(tmp_path / ".cache/c.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "d.png.bak"):
        (tmp_path / name).write_text("?")
    (tmp_path / "e.png").mkdir()  # a folder, whatever its name
    assert open_images([tmp_path]).names == (f"{tmp_path}/a.png",)


def test_a_folder_without_images_and_a_missing_path_say_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for open_it in (open_dataset, lambda path: open_images([path])):
        with pytest.raises(
            DataNotFoundError, match=r"empty: holds no images; put some there \(\.bmp, \.jpeg, .*\.webp\)"
        ):
            open_it(tmp_path / "empty")
        with pytest.raises(DataNotFoundError, match=r"nowhere: is "):
            open_it(tmp_path / "nowhere")
    (tmp_path / "empty/train/good").mkdir(parents=True)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(DataNotFoundError, match="train/good: holds no images"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(DataNotFoundError, match="no image was named"):
        open_images([])


def test_images_to_score_keep_the_order_given_and_folders_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.png", "img9.png", "sub/img1.png"):
        picture(tmp_path / "lot" / name)
    single = picture(tmp_path / "z.png")
    images = open_images([single, str(tmp_path / "lot"), single])
    names = (single, tmp_path / "lot/img9.png", tmp_path / "lot/img10.png", tmp_path / "lot/sub/img1.png", single)
    assert images.names == tuple(map(str, names))
    assert set(images.kinds) == {""}
    assert images.labels.tolist() == [0] * 5


def test_names_are_the_paths_as_the_user_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "lot/a.png")
    monkeypatch.chdir(tmp_path)
    for source, name in (("lot", "lot/a.png"), ("./lot/", "./lot/a.png"), ("lot/../lot", "lot/../lot/a.png")):
        assert open_images([source]).names == (name,)
        assert open_dataset(source).train.names == (name,)
    assert open_images(["./lot/a.png"]).names == ("./lot/a.png",)
    (tmp_path / "lot/a.png").write_text("damaged")
    with pytest.raises(ImageError, match=r"^\./lot/a\.png: is not a PNG"):
        open_images(["./lot"]).image(0)


def test_links_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    picture(tmp_path / "lot/deep/a.png")
    (tmp_path / "lot/deep/back").symlink_to(tmp_path / "lot")
    (tmp_path / "lot/self").symlink_to("self")
    (tmp_path / "lot/again").symlink_to(tmp_path / "lot/deep")
    (tmp_path / "lot/b.png").symlink_to(picture(tmp_path / "kept elsewhere.png"))
    assert open_images([tmp_path / "lot"]).names == (f"{tmp_path}/lot/b.png", f"{tmp_path}/lot/deep/a.png")


def test_a_link_to_nothing_is_reported_and_not_dropped(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    _, problems = open_images([tmp_path]).readable()
    assert [problem.name for problem in problems] == [str(tmp_path / "b.png")]


# Arrays in files


def test_a_file_of_one_array_is_all_normal(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 4096, (6, 9, 7), dtype=np.uint16)
    np.save(tmp_path / "parts.npy", array)
    np.savez_compressed(tmp_path / "parts.npz", anything=array)
    for name in ("parts.npy", "parts.npz"):
        data = open_dataset(str(tmp_path / name))
        np.testing.assert_array_equal(pixels_of(data.train), array[..., None])
        assert data.train.names[5] == f"{tmp_path / name}[5]"
        assert (data.name, data.normal, len(data.test)) == ("parts", "good", 0)
        assert data.train.choose_spec(None).value_max == 4095
        with pytest.raises(DataError, match="has no classes"):
            open_dataset(str(tmp_path / name), normal="3")


def test_keras_s_layout_is_read_from_any_npz_file(tmp_path: Path, rng: np.random.Generator) -> None:
    x_train, x_test = (rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (12, 4))
    y_train, y_test = np.arange(12)[:, None] % 3, np.array([2, 0, 1, 2])
    np.savez(tmp_path / "mine.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    data = open_dataset(str(tmp_path / "mine.npz"), normal="2")
    np.testing.assert_array_equal(pixels_of(data.train), x_train[2::3][..., None])
    assert data.train.names == ("train[2]", "train[5]", "train[8]", "train[11]")
    assert data.test.kinds == ("2", "0", "1", "2")
    assert data.test.labels.tolist() == [0, 1, 1, 0]


def test_arrays_that_are_no_images_or_do_not_match_are_refused(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", a=images, b=images)
    with pytest.raises(DataError, match=r"holds the arrays a, b; save one array of images, or x_train"):
        open_dataset(tmp_path / "two.npz")
    np.savez(tmp_path / "short.npz", x_train=images, y_train=np.zeros(3, int), x_test=images, y_test=np.zeros(4, int))
    with pytest.raises(DataError, match=r"labels of shape \(3,\) and type int64 for images of shape \(4, 8, 8\)"):
        open_dataset(tmp_path / "short.npz")
    np.save(tmp_path / "first.npy", np.zeros((4, 3, 8, 8), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"first\.npy: .*channels come last"):
        open_dataset(tmp_path / "first.npy")
