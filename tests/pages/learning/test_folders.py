"""Folders of photographs: ids, what is left out, uploads and thumbnails."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from photo_folders import Desk, write_parts, write_photos
from PIL import Image

from oddlens.errors import DataError, DataNotFoundError, ImageError, SettingsError
from oddlens.io.atomic import write_bytes
from oddlens.io.own_files import PNG_METADATA
from oddlens.pages.learning import folders
from oddlens.pages.learning.folders import (
    MAX_NAME,
    Photographs,
    count_images,
    identity,
    open_photographs,
    thumbnail,
)
from oddlens.pages.learning.workspace import Workspace


def png(level: int = 100, side: int = 8, **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((side, side), level, dtype=np.uint8)).save(content, format="png", **options)
    return content.getvalue()


def test_folders_with_images_at_any_depth_are_listed_by_their_paths(desk: Desk) -> None:
    listed = {folder.name: folder for folder in desk.photographs.folders()}
    assert list(listed) == [
        ".", "parts", "parts/test", "parts/test/good", "parts/test/spot", "parts/train", "parts/train/good",
    ]  # fmt: skip
    assert [listed[name].n_images for name in (".", "parts", "parts/test", "parts/train/good")] == [72, 72, 12, 60]
    assert listed["parts"].id == identity("parts")
    assert desk.photographs.open(listed["parts"].id) == desk.root / "parts"
    assert desk.photographs.name(listed["parts"].id) == "parts"


def test_a_folder_of_good_photographs_is_named_after_what_it_shows(tmp_path: Path) -> None:
    for name in ("pills/train/good", "good", "Train/OK", "lids"):
        write_photos(tmp_path / "caps" / name, 1)
    photographs = Photographs(tmp_path / "caps", Workspace.open(tmp_path / "work", tmp_path / "caps"))
    subjects = {folder.name: photographs.subject(folder.id) for folder in photographs.folders()}
    expected = {"pills/train/good": "pills", "pills": "pills", "good": "caps", "Train/OK": "caps", ".": "caps"}
    assert subjects | expected == subjects
    assert subjects["lids"] == "lids"


def test_what_is_hidden_of_the_system_linked_or_ours_is_not_listed(tmp_path: Path) -> None:
    write_photos(tmp_path / "elsewhere", 2)
    for name in (".hidden", "@eaDir", "ours", "good"):
        write_photos(tmp_path / "photos" / name, 1)
    (tmp_path / "photos/ours/.oddlens.json").write_text("{}")
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/good/link.png").symlink_to(tmp_path / "elsewhere/000.png")
    (tmp_path / "photos/good/.hidden.png").write_bytes(b"")
    (tmp_path / "photos/good/notes.txt").write_bytes(b"")
    (tmp_path / "photos/empty").mkdir()
    assert count_images(tmp_path / "photos") == {".": 1, "good": 1}


def test_masks_are_no_photographs_but_a_folder_may_be_called_masks(tmp_path: Path) -> None:
    for name in (
        "pills/train/good",
        "pills/test/dent",
        "pills/ground_truth/dent",
        "visa/Images/Normal",
        "visa/Masks/a",
    ):
        write_photos(tmp_path / name, 2)
    write_photos(tmp_path / "masks", 3)  # of dust, say, to be inspected
    counts = count_images(tmp_path)
    assert (counts["."], counts["pills"], counts["visa"], counts["masks"]) == (9, 4, 2, 3)
    assert not {"pills/ground_truth", "pills/ground_truth/dent", "visa/Masks"} & counts.keys()


@pytest.mark.parametrize(
    "name", ["..", "../elsewhere", "/etc", "", "0" * 16, identity("../elsewhere"), identity("link")]
)
def test_nothing_but_an_id_of_the_listing_opens_a_folder(desk: Desk, name: str) -> None:
    write_photos(desk.root.parent / "elsewhere", 1)
    (desk.root / "link").symlink_to(desk.root.parent / "elsewhere")
    with pytest.raises(DataNotFoundError, match="choose one of the list"):
        desk.photographs.open(name)


def test_a_folder_that_became_a_link_is_no_longer_opened(desk: Desk) -> None:
    train = next(folder.id for folder in desk.photographs.folders() if folder.name == "parts/train")
    image = desk.photographs.images(train)[0].id
    assert desk.photographs.image(train, image).is_file()
    (desk.root / "parts").rename(desk.root.parent / "elsewhere")
    (desk.root / "parts").symlink_to(desk.root.parent / "elsewhere")
    with pytest.raises(DataNotFoundError):
        desk.photographs.open(train)
    with pytest.raises(DataNotFoundError):
        desk.photographs.image(train, image)


def test_an_image_that_became_a_link_is_no_longer_opened(desk: Desk) -> None:
    photo = desk.photographs.images(desk.parts)[0]
    path = desk.photographs.image(desk.parts, photo.id)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(DataNotFoundError, match="there is no image"):
        desk.photographs.image(desk.parts, photo.id)
    assert photo.id not in [left.id for left in desk.photographs.images(desk.parts)]


def test_links_below_a_folder_are_never_data(desk: Desk) -> None:
    write_photos(desk.root.parent / "elsewhere", 3)
    (desk.root / "parts/train/good/more").symlink_to(desk.root.parent / "elsewhere")
    (desk.root / "parts/test/linked").symlink_to(desk.root.parent / "elsewhere")
    data = open_photographs(desk.photographs.root / "parts")
    assert (len(data.train), len(data.test)) == (60, 12)
    assert len(data.left_out["a link, which is not followed here"]) == 2


def test_a_folder_that_became_a_link_after_its_job_was_added_is_not_read(desk: Desk) -> None:
    path = desk.photographs.open(desk.parts)
    path.rename(desk.root.parent / "elsewhere")
    path.symlink_to(desk.root.parent / "elsewhere")
    with pytest.raises(DataNotFoundError, match="has become a link"):
        open_photographs(path)


def test_photographs_have_their_part_kind_and_label(desk: Desk) -> None:
    listed = desk.photographs.images(desk.parts)
    assert len({photo.id for photo in listed}) == len(listed) == 72
    rows = {(photo.part, photo.kind, photo.label) for photo in listed}
    assert rows == {("train", "good", 0), ("test", "good", 0), ("test", "spot", 1)}
    assert listed[0].name == "train/good/000.png"
    assert listed[0].id == identity("train/good/000.png")


def test_names_with_markup_newlines_and_bytes_that_are_no_text_are_names(desk: Desk) -> None:
    strange = os.fsdecode(b"<b>caps<b>\n\xe9")
    write_photos(desk.root / strange, 2)
    folder = next(folder for folder in desk.photographs.folders() if folder.name.startswith("<b>caps"))
    assert folder.name == "<b>caps<b>\n\\xe9"
    assert desk.photographs.image(folder.id, desk.photographs.images(folder.id)[1].id).read_bytes()


def test_an_unclear_layout_is_an_error_that_a_normal_class_settles(desk: Desk) -> None:
    for name in ("ok", "scratch"):
        write_photos(desk.root / "classes" / name, 2)
    folder = next(folder.id for folder in desk.photographs.folders() if folder.name == "classes")
    with pytest.raises(DataError, match="ok"):
        desk.photographs.images(folder)
    assert len(desk.photographs.images(folder, "ok")) == 6


def test_excluded_images_are_in_no_part(desk: Desk) -> None:
    listed = desk.photographs.images(desk.parts)
    excluded = frozenset([listed[0].id, listed[-1].id, "0" * 16])
    data = open_photographs(desk.photographs.root / "parts", excluded=excluded)
    assert (len(data.train), len(data.test)) == (59, 11)
    assert [Path(name).name for name in data.left_out["excluded in the project"]] == ["000.png", "005.png"]
    with pytest.raises(DataError, match="all photographs are excluded"):
        open_photographs(desk.photographs.root / "parts", excluded=frozenset(photo.id for photo in listed))


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "s.learning", tmp_path / "photos")
    with pytest.raises(DataNotFoundError, match="--root"):
        Photographs(tmp_path / "photos", workspace)


def test_uploads_become_a_folder_of_the_workspace_and_none_of_the_root(desk: Desk) -> None:
    before = sorted(desk.root.rglob("*"))
    files = [("../../a.png", png(1)), ("b.JPG", png(2)), ("c", png(3)), ("copy.png", png(1)), ("bad.png", b"no")]
    upload = desk.photographs.add_uploads(" Caps <i> ", files)
    assert upload.n_added == 3
    assert [name for name, _ in upload.refused] == ["copy.png", "bad.png"]
    assert upload.refused[0][1] == "is there already"
    assert sorted(desk.root.rglob("*")) == before
    folder = desk.photographs.folders()[-1]
    assert (folder.id, folder.name, folder.n_images, folder.uploaded) == (upload.folder, "Caps <i>", 3, True)
    assert len(desk.photographs.images(folder.id)) == 3
    assert desk.photographs.name(folder.id) == "Caps <i>"
    again = desk.photographs.add_uploads("Caps <i>", [("d.png", png(4))])
    assert (again.folder, again.n_added) == (upload.folder, 1)
    assert desk.photographs.folders()[-1].n_images == 4


def test_uploads_that_cannot_be_used_leave_nothing_behind(desk: Desk) -> None:
    ours = png(5, pnginfo=text_chunk())
    upload = desk.photographs.add_uploads("Caps", [("a.png", b""), ("b.png", b"<svg>"), ("map.png", ours)])
    assert upload.n_added == 0
    assert "oddlens made" in upload.refused[2][1]
    assert list(desk.workspace.uploads.iterdir()) == []


def text_chunk() -> object:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, value in PNG_METADATA.items():
        info.add_text(name, value)
    return info


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x00", "a" * (MAX_NAME + 1)])
def test_uploads_need_a_name(desk: Desk, name: str) -> None:
    with pytest.raises(SettingsError, match="need a name"):
        desk.photographs.add_uploads(name, [("a.png", png())])


def test_an_image_too_large_to_decode_is_refused_with_its_reason(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"P5\n90000 90000\n255\n"
    upload = desk.photographs.add_uploads("Caps", [("a.pgm", header + b"\0" * 100)])
    assert "pixels" in upload.refused[0][1]


def test_thumbnails_are_small_png_files_of_any_depth(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.png", png(200, 600))
    with Image.open(io.BytesIO(thumbnail(tmp_path / "a.png"))) as image:
        assert (image.format, image.size, image.getpixel((5, 5))) == ("PNG", (256, 256), 200)
    Image.fromarray(np.full((10, 30), 4095, dtype=np.uint16)).save(tmp_path / "deep.png")
    with Image.open(io.BytesIO(thumbnail(tmp_path / "deep.png", 15))) as image:
        assert (image.size, image.getpixel((0, 0))) == ((15, 5), 255)
    with pytest.raises(ImageError):
        thumbnail(write_bytes(tmp_path / "no.png", b"no"))


def test_listing_many_folders_does_not_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path / "photos", 3, 1)
    monkeypatch.setattr(folders, "decode", None)
    monkeypatch.setattr("builtins.open", None)
    assert count_images(tmp_path / "photos")["."] == 5
