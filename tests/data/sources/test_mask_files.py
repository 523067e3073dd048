"""Masks belong to the image that their name says, in the schemes of data sets and labelling tools."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from oddlens.data.sources.mask_files import NO_CLASS, NO_IMAGE, SECOND_MASK, MaskMatches, match_masks

KRATZER = "dent/Kratzér 1"


def match(images: list[str], masks: list[str]) -> MaskMatches:
    """Match places; the paths are those places below `test/` and `gt/`."""
    return match_masks({f"test/{image}": image for image in images}, {f"gt/{mask}": mask for mask in masks})


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("dent/000.png", "dent/000_mask.png"),
        ("dent/000.jpg", "dent/000_mask.bmp"),
        ("dent/000.png", "dent/000.png"),
        ("dent/0000.bmp", "dent/0000.png"),
        ("dent/10000.png", "dent/10000_GT.png"),
        ("dent/000.png", "dent/000_gt.png"),
        ("dent/Part0.jpg", "dent/Part0_label.bmp"),
        ("dent/0576.PNG", "dent/0576_label.PNG"),
        ("dent/a.png", "dent/a-mask.png"),
        ("dent/a.png", "dent/a_ground_truth.png"),
        ("dent/a.png", "dent/a_gt_mask.png"),
        ("dent/001.png", "dent/mask_001.png"),
        ("dent/IMG_7.JPG", "dent/img_7_MASK.PNG"),
        ("dent/7.jpg", "dent/7.jpg.png"),
        ("dent/7", "dent/7_mask"),
        ("dent/2024.01.05.png", "dent/2024.01.05_mask.png"),
        ("dent/x_mask.png", "dent/x_mask.png"),
        ("dent/1.png", "Dent/1.png"),
        ("cut/left/0.jpg", "cut/left/0_mask.png"),
        (unicodedata.normalize("NFC", f"{KRATZER}.png"), unicodedata.normalize("NFD", f"{KRATZER}_mask.png")),
        (unicodedata.normalize("NFD", f"{KRATZER}.png"), unicodedata.normalize("NFC", f"{KRATZER}_mask.png")),
    ],
)
def test_common_names_match(image: str, mask: str) -> None:
    matches = match(["good/000.png", image, "dent/other.png"], [mask])
    assert matches.paths == {f"test/{image}": (f"gt/{mask}",)}
    assert (matches.unused, matches.conflicts) == ({}, [])


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("dent/9_mask.png", NO_IMAGE),
        ("dent/left/1_mask.png", NO_IMAGE),
        ("dent/1mask.png", NO_IMAGE),
        ("dent/11_mask.png", NO_IMAGE),
        ("good/1_mask.png", NO_IMAGE),
        ("other/1_mask.png", NO_CLASS),
        ("1_mask.png", NO_CLASS),
    ],
)
def test_other_masks_are_unused_for_a_reason(mask: str, reason: str) -> None:
    matches = match(["dent/1.png", "good/0.png"], [mask])
    assert (matches.paths, matches.unused) == ({}, {reason: [f"gt/{mask}"]})


def test_a_name_with_mask_precedes_the_name_of_the_image() -> None:
    """The other may be a copy of the image, which some tools put beside its mask."""
    matches = match(["dent/1.png"], ["dent/1.png", "dent/1.jpg", "dent/1_mask.png"])
    assert matches.paths == {"test/dent/1.png": ("gt/dent/1_mask.png",)}
    assert matches.unused == {SECOND_MASK: ["gt/dent/1.png", "gt/dent/1.jpg"]}


@pytest.mark.parametrize(
    "masks",
    [
        ["dent/1_mask.png", "dent/1_gt.png"],
        ["dent/1_mask.png", "dent/1_mask.bmp"],
        ["dent/1_MASK.png", "dent/1_mask.png"],
        ["dent/1.png", "dent/1.bmp"],
        ["dent/1.png", "dent/1/000.png"],
    ],
)
def test_two_masks_of_one_image_are_a_conflict_that_names_both(masks: list[str]) -> None:
    matches = match(["dent/1.png", "dent/2.png"], [*masks, "dent/2_mask.png"])
    assert matches.conflicts == [" and ".join(f"gt/{mask}" for mask in masks)]
    mask, other = matches.mask_of_each(["test/dent/1.png", "test/dent/2.png"])
    assert mask is not None
    assert other is not None
    assert mask.masks is other.masks
    assert list(mask.masks.problems.values()) == [tuple(matches.conflicts)]


def test_the_masks_in_a_folder_with_the_name_of_an_image_are_all_its_masks() -> None:
    matches = match(["logical/000.png", "logical/001.png"], ["logical/000/000.png", "logical/000/001.png"])
    assert matches.paths == {"test/logical/000.png": ("gt/logical/000/000.png", "gt/logical/000/001.png")}
    mask, none = matches.mask_of_each(["test/logical/000.png", "test/logical/001.png"])
    assert mask is not None
    assert mask.paths == (Path("gt/logical/000/000.png"), Path("gt/logical/000/001.png"))
    assert none is None


def test_names_that_differ_in_case_alone_match_in_the_same_case() -> None:
    matches = match(["dent/a.png", "dent/A.png"], ["dent/a_mask.png", "dent/A_mask.png"])
    assert matches.paths == {"test/dent/a.png": ("gt/dent/a_mask.png",), "test/dent/A.png": ("gt/dent/A_mask.png",)}


def test_images_that_differ_in_suffix_alone_share_a_mask_unless_it_names_one() -> None:
    assert match(["dent/a.png", "dent/a.jpg"], ["dent/a_mask.png"]).paths.keys() == {
        "test/dent/a.png",
        "test/dent/a.jpg",
    }
    assert match(["dent/a.png", "dent/a.jpg"], ["dent/a.jpg_mask.png"]).paths.keys() == {"test/dent/a.jpg"}
