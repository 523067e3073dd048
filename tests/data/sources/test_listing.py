"""Every file below a folder is read as an image or left out under a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dataset_files import write_image, write_mvtec
from PIL import Image

from oddlens.data.open import describe_left_out, open_dataset, open_images
from oddlens.data.sources import listing
from oddlens.errors import DataError, DataNotFoundError
from oddlens.io.own_folder import make_working_folder, record
from oddlens.reporting import figures

CURVE = figures.training_curve([{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.4}])


def left_out(images_or_data: object, root: Path) -> dict[str, list[str]]:
    """What was left out, by reason, as paths below `root`."""
    return {
        reason: [path.removeprefix(f"{root}/") for path in paths]
        for reason, paths in images_or_data.left_out.items()  # type: ignore[attr-defined]
    }


def names(images: object, root: Path) -> list[str]:
    return [name.removeprefix(f"{root}/") for name in images.names]  # type: ignore[attr-defined]


def save_as(path: Path, kind: str) -> None:
    """An image of some format under a name that does not say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, format=kind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM"])
@pytest.mark.parametrize("name", ["part", "part.001", "part.img", "part.dat", "IMG 0001"])
def test_images_are_recognized_by_their_content_where_the_suffix_does_not_say(
    tmp_path: Path, name: str, kind: str
) -> None:
    save_as(tmp_path / name, kind)
    images = open_images([tmp_path])
    assert names(images, tmp_path) == [name]
    assert images.image(0).shape[:2] == (8, 8)
    assert images.left_out == {}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"BM is short for Biomedical", b"BM" + bytes(40), b"P1,P2,P3\n1,2,3\n", b"P5 is a robot",
        b"P2 120 35 ok\n", b"P1 10 20 0.5\n", b"P2\n# a\n",
        b"RIFF1234WAVEfmt ", b"GIF is a format", b"II*", b"\xff\xd8", b"\x89PNG", b"file,judgement\n",
    ],
)  # fmt: skip
def test_other_files_that_begin_like_images_are_not(tmp_path: Path, content: bytes) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "notes").write_bytes(content)
    assert left_out(open_images([tmp_path]), tmp_path) == {listing.NOT_AN_IMAGE: ["notes"]}


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".gif", ".pgm", ".ppm", ".pnm", ".pbm", ".TIFF", ".webp"])
def test_a_damaged_file_with_an_images_suffix_stays_an_error(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("damaged")
    _, problems = open_images([tmp_path]).readable()
    assert [problem.name for problem in problems] == [f"{tmp_path}/a{suffix}"]


def test_everything_else_is_left_out_under_its_reason(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    for name in ("@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/._a.png", "#recycle/old.png", "$RECYCLE.BIN/b.png"):
        write_image(tmp_path / name)
    for name in (".cache/c.png", "._a.png"):
        write_image(tmp_path / name)
    for name in ("Thumbs.db", "desktop.ini", "notes.txt", "v.csv", "d.safetensors", "IMG.HEIC"):
        (tmp_path / name).write_text("?")
    save_as(tmp_path / "DSC1.NEF", "TIFF")  # which would be read as its thumbnail
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "again").symlink_to(".")
    figures.save_figure(CURVE, tmp_path / "a_map.png")
    working_folder = make_working_folder(tmp_path / "d.safetensors").name
    images = open_images([tmp_path])
    assert names(images, tmp_path) == ["a.png"]
    assert left_out(images, tmp_path) == {
        listing.SIDE_FOLDER: ["#recycle/", "$RECYCLE.BIN/", "@eaDir/", "__MACOSX/", "desktop.ini", "Thumbs.db"],
        listing.HIDDEN: ["._a.png", ".cache/"],
        listing.NOT_AN_IMAGE: ["d.safetensors", "notes.txt", "v.csv"],
        listing.FOREIGN: ["DSC1.NEF", "IMG.HEIC"],
        listing.NOT_A_FILE: ["pipe.png"],
        listing.BROKEN_LINK: ["gone"],
        listing.SECOND_LINK: ["again"],
        listing.OWN: ["a_map.png", f"{working_folder}/"],
    }


def test_a_folder_with_the_output_of_a_run_is_read_but_for_the_output(tmp_path: Path) -> None:
    write_image(tmp_path / "day1/a.png")
    figures.save_figure(CURVE, tmp_path / "day1/figures/roc.png")
    record(tmp_path / "day1", ["figures"])
    images = open_images([tmp_path])
    assert names(images, tmp_path) == ["day1/a.png"]
    assert left_out(images, tmp_path) == {listing.OWN: ["day1/figures/roc.png"]}


@pytest.mark.parametrize("name", ["a_map", "a_map.png.bak", "a_map.PNG"])
def test_own_pictures_are_recognized_under_other_names(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.png")
    figures.save_figure(CURVE, tmp_path / name)
    assert left_out(open_images([tmp_path]), tmp_path) == {listing.OWN: [name]}


def test_a_side_folder_that_is_named_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "@eaDir/a.png")
    write_image(tmp_path / ".hidden/a.png")
    assert len(open_images([tmp_path / "@eaDir", tmp_path / ".hidden"])) == 2
    assert len(open_dataset(tmp_path / ".hidden").train) == 1


def test_the_mvtec_layout_accounts_for_what_lies_beside_it(tmp_path: Path) -> None:
    write_mvtec(tmp_path)
    for name in ("train/bent/0.png", "validation/good/0.png", "loose.png", "ground_truth/scratch/notes.md"):
        write_image(tmp_path / "x.png").rename(tmp_path / "y.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "y.png").rename(tmp_path / name)
    data = open_dataset(tmp_path)
    expected = {
        listing.NOT_AN_IMAGE: ["license.txt"],
        listing.NOT_IN_LAYOUT: ["loose.png", "train/bent/", "validation/"],
    }
    assert left_out(data, tmp_path) == expected
    assert left_out(data.train, tmp_path) == left_out(data.test, tmp_path) == expected
    chosen = open_dataset(tmp_path, normal="good")  # then the other training classes are left out on purpose
    assert left_out(chosen, tmp_path)[listing.NOT_IN_LAYOUT] == ["loose.png", "validation/"]


def test_what_was_left_out_survives_a_selection(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("?")
    images = open_images([tmp_path, tmp_path])
    assert left_out(images.subset([0]), tmp_path) == {listing.NOT_AN_IMAGE: ["notes.txt"]}


def test_a_working_folder_beside_class_folders_is_no_class(tmp_path: Path) -> None:
    write_image(tmp_path / "good/a.png")
    write_image(tmp_path / "dent/a.png")
    folder = make_working_folder(tmp_path / "d.safetensors")
    data = open_dataset(tmp_path)
    assert sorted(set(data.test.kinds)) == ["dent", "good"]
    assert left_out(data, tmp_path) == {listing.OWN: [f"{folder.name}/"]}


@pytest.mark.skipif(os.sep != "/", reason="backslashes separate folders here")
@pytest.mark.parametrize("name", ["train\\good\\0.png", "0\\.png", "\\0.png"])
def test_names_with_backslashes_are_refused(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "a.png")
    write_image(tmp_path / name)
    for open_it in (open_dataset, lambda path: open_images([path])):
        with pytest.raises(DataError, match=r"has a backslash in its name.*unpack the archive again with `unzip`"):
            open_it(tmp_path)


def test_a_folder_without_images_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "IMG.heic").write_text("?")
    with pytest.raises(DataNotFoundError, match=r"contains no images \(left out: 1, an image in a format.*IMG\.heic"):
        open_images([tmp_path])


def test_at_most_ten_names_are_listed_for_a_reason() -> None:
    lines = describe_left_out({"not an image": tuple(f"{i}.txt" for i in range(12)), "hidden": (".a",)})
    assert lines == [
        "left out, not an image: " + ", ".join(f"{i}.txt" for i in range(10)) + " and 2 more",
        "left out, hidden: .a",
    ]


def test_own_pictures_named_one_by_one_are_left_out_only_on_request(tmp_path: Path) -> None:
    files = [write_image(tmp_path / "a.png"), figures.save_figure(CURVE, tmp_path / "a_map.png")]
    assert len(open_images(files)) == 2
    images = open_images(files, leave_out_own=True)
    assert names(images, tmp_path) == ["a.png"]
    assert left_out(images, tmp_path) == {listing.OWN: ["a_map.png"]}
    with pytest.raises(DataNotFoundError, match=r"a_map\.png was made by oddlens, there are no images"):
        open_images(files[1:], leave_out_own=True)


def test_python_users_are_warned_of_what_was_left_out(tmp_path: Path) -> None:
    from oddlens.data.open import as_image_set, as_training_images

    write_image(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("?")
    for door in (as_image_set, as_training_images):
        with pytest.warns(UserWarning, match=r"left out, not an image: .*notes\.txt"):
            door(str(tmp_path))


def test_links_are_left_out_where_they_are_not_followed(tmp_path: Path) -> None:
    folder = write_mvtec(tmp_path / "parts")
    write_image(tmp_path / "elsewhere/a.png")
    (folder / "train/good/folder").symlink_to(tmp_path / "elsewhere")
    (folder / "train/good/file.png").symlink_to(tmp_path / "elsewhere/a.png")
    (folder / "test/linked").symlink_to(tmp_path / "elsewhere")
    assert len(open_dataset(folder).train) == 5
    data = open_dataset(folder, follow_links=False)
    assert (len(data.train), len(data.test)) == (3, 5)
    assert data.left_out[listing.LINK] == tuple(
        str(folder / name) for name in ("test/linked", "train/good/file.png", "train/good/folder")
    )
