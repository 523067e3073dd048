"""Checks of files, masks, image sizes, channels and bit depths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretrained_extra import needs_pretrained
from wave_images import finding_names, wave_images

from oddlens.data.open import open_dataset
from oddlens.evaluation import data_checks
from oddlens.evaluation.diagnosis import Finding


def save(path: Path, seed: int, size: tuple[int, int] = (24, 24), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(wave_images(1, 120, seed)[0, ..., 0]).resize(size).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten training images, and two test images of each label."""
    for i in range(10):
        save(tmp_path / f"train/good/{i}.png", i)
    for i in range(2):
        save(tmp_path / f"test/good/{i}.png", 20 + i)
        save(tmp_path / f"test/bad/{i}.png", 30 + i)
    return tmp_path


def check(folder: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in data_checks.check(open_dataset(folder)).findings}


def last_parts(finding: Finding) -> set[str]:
    return {"/".join(Path(name).parts[-2:]) for name in finding.files}


def test_alike_images_have_no_format_findings(folder: Path) -> None:
    assert set(check(folder)) == {"too few images"}


def test_masks_without_an_image_are_listed(tmp_path: Path) -> None:
    for name in ("train/good/0", "test/bad/0", "test/good/0", "ground_truth/bad/0_mask", "ground_truth/bad/7_mask",
                 "ground_truth/other/0_mask"):  # fmt: skip
        save(tmp_path / f"{name}.png", len(name))
    finding = check(tmp_path)["stray masks"]
    assert last_parts(finding) == {"bad/7_mask.png", "other/0_mask.png"}
    assert finding.text.startswith(
        "2 masks without a test image (1, as no test image of the same class has their name;"
    )


def test_unreadable_images_are_an_error_and_the_others_are_checked(folder: Path) -> None:
    (folder / "train/good/3.png").write_bytes(b"broken")
    diagnosis = data_checks.check(open_dataset(folder))
    (finding,) = [finding for finding in diagnosis.findings if finding.name == "unreadable"]
    assert (finding.level, last_parts(finding)) == ("error", {"good/3.png"})
    assert finding.text.startswith("1 train image cannot be read, the first: ")
    assert diagnosis.facts["n_unreadable_train"] == 1
    assert diagnosis.facts["sizes"] == [{"width": 24, "height": 24, "n": 9}]
    assert not diagnosis.as_json["ok"]
    assert "too few images" in finding_names(diagnosis)


def test_unreadable_and_empty_masks_are_told_apart(folder: Path) -> None:
    masks = folder / "ground_truth/bad"
    masks.mkdir(parents=True)
    (masks / "0_mask.png").write_bytes(b"broken")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(masks / "1_mask.png")
    findings = check(folder)
    assert (findings["unreadable masks"].level, len(findings["unreadable masks"].files)) == ("error", 1)
    assert (findings["empty masks"].level, last_parts(findings["empty masks"])) == ("note", {"bad/1.png"})


def save_mask(path: Path, marks: slice, ground: int = 0, size: tuple[int, int] = (24, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, ground, np.uint8)
    pixels[marks, :5] = 255 - ground
    Image.fromarray(pixels).save(path)


def test_masks_that_are_inverted_contradict_or_are_missing_are_listed(folder: Path) -> None:
    save_mask(folder / "ground_truth/bad/0_mask.png", slice(0, 5), 255, (24, 12))
    save_mask(folder / "ground_truth/good/1_mask.png", slice(0, 5), 255)
    save_mask(folder / "ground_truth/good/0_mask.png", slice(0, 0), 255)
    findings = check(folder)
    assert findings["inverted masks"].text.startswith("white is the larger part of 2 of 2 masks")
    assert (findings["masks of normal images"].level, last_parts(findings["masks of normal images"])) == (
        "warning",
        {"good/1.png"},
    )
    assert last_parts(findings["stretched masks"]) == {"bad/0_mask.png"}
    assert last_parts(findings["no mask"]) == {"bad/1.png"}
    assert "empty masks" not in findings


def test_unclear_masks_are_an_error_that_lists_them(folder: Path) -> None:
    for i in range(2):
        save_mask(folder / f"ground_truth/bad/{i}_mask.png", slice(0, 0), 255)
    finding = check(folder)["unclear masks"]
    assert (finding.level, last_parts(finding)) == ("error", {"bad/0_mask.png", "bad/1_mask.png"})
    assert "every mask has one level only" in finding.text


@pytest.mark.parametrize(("size", "level"), [((48, 48), "note"), ((48, 24), "warning")])
def test_mixed_sizes_are_a_warning_if_the_aspect_ratios_differ(folder: Path, size: tuple[int, int], level: str) -> None:
    save(folder / "train/good/10.png", 10, size)
    finding = check(folder)["mixed sizes"]
    assert finding.level == level
    assert ("range from 1.00 to 2.00" in finding.text) == (level == "warning")


def test_large_images_are_not_a_warning_as_fit_tiles_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = data_checks.check(open_dataset(folder))
    assert diagnosis.facts["input"] == {"width": 24, "height": 24}
    assert (diagnosis.facts["tiles"], diagnosis.facts["shrinking"]) == (1, {"n": 0, "factor": None})
    for path in folder.rglob("*.png"):
        save(path, 0, (2526, 1000))
    monkeypatch.setattr("oddlens.training.resolve.is_installed", lambda: False)
    diagnosis = data_checks.check(open_dataset(folder))
    assert [finding for finding in diagnosis.findings if finding.name == "shrinking"] == []
    assert diagnosis.facts["input"] == {"width": 2526, "height": 1000}
    assert diagnosis.facts["tiles"] == 18 * 7
    assert diagnosis.facts["shrinking"] == {"n": 0, "factor": None}


@needs_pretrained
def test_the_input_is_larger_with_a_backbone(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        save(path, 0, (1263, 500))
    assert data_checks.check(open_dataset(folder)).facts["input"] == {"width": 512, "height": 200}


@needs_pretrained
def test_only_the_images_that_are_shrunk_more_than_fourfold_are_listed(folder: Path) -> None:
    save(folder / "train/good/10.png", 10, (1200, 1200))
    save(folder / "test/bad/5.png", 11, (1500, 1500))
    findings = check(folder)
    assert last_parts(findings["shrinking"]) == {"good/10.png", "bad/5.png"}
    assert "2 of 16 images of up to 1500 x 1500 pixels are shrunk 4.7- to 5.9-fold to 256 x 256" in (
        findings["shrinking"].text
    )
    assert "have 2 sizes and are stretched to one" in findings["mixed sizes"].text


def test_mixed_channels_list_the_rarer_mode(folder: Path) -> None:
    save(folder / "train/good/10.png", 10, mode="RGB")
    finding = check(folder)["mixed modes"]
    assert finding.text.startswith("10 grey and 1 colour training images are mixed")
    assert last_parts(finding) == {"good/10.png"}


def test_mixed_bit_depths_are_an_error_and_stop_comparisons_of_content(folder: Path) -> None:
    deep = wave_images(1, 120, 0)[0, ..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "test/bad/1.png")
    save(folder / "train/good/copy.png", 0)
    findings = check(folder)
    assert (findings["mixed bit depths"].level, last_parts(findings["mixed bit depths"])) == ("error", {"bad/1.png"})
    assert "duplicates" not in findings
