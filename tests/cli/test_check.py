"""`oddlens check`: problems of a data set, with exit code 0."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import error_of, oddlens, run_json
from PIL import Image
from wave_images import wave_images

from oddlens.evaluation import contamination


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def test_problems_are_reported_with_their_files(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "messy"
    folder.mkdir()
    images = [read_image(parts / f"train/good/{i:03}.png") for i in range(20)]
    for i, image in enumerate(images):
        image.save(folder / f"{i:03}.png")
    images[0].save(folder / "copy.png")
    images[1].convert("RGB").save(folder / "colour.png")
    images[2].resize((60, 20)).save(folder / "wide.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    result = run_json("check", folder)
    names = {finding["name"]: finding for finding in result["findings"]}
    assert {"unreadable", "mixed sizes", "mixed modes", "duplicates", "too few images"} <= set(names)
    assert names["unreadable"]["files"] == [str(folder / "broken.jpg")]
    assert str(folder / "copy.png") in names["duplicates"]["files"]
    assert names["mixed modes"]["files"] == [str(folder / "colour.png")]
    assert result["n_train"] == 24
    assert result["ok"] is False
    assert run_json("check", parts)["ok"] is True
    assert "broken.jpg" in oddlens("check", folder).stdout


def test_masks_and_the_bit_depth_of_test_images_are_checked(parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(parts, root)
    (root / "ground_truth/spot/000_mask.png").write_bytes(b"broken")
    Image.fromarray(np.zeros((20, 24), dtype=np.uint8)).save(root / "ground_truth/spot/001_mask.png")
    names = {finding["name"]: finding["level"] for finding in run_json("check", root)["findings"]}
    assert (names["unreadable masks"], names["empty masks"]) == ("error", "note")
    deep = Image.fromarray(np.full((20, 24), 3000, dtype=np.uint16))
    deep.save(root / "test/good/000.png")
    findings = {finding["name"]: finding for finding in run_json("check", root)["findings"]}
    assert findings["mixed bit depths"]["files"] == [str(root / "test/good/000.png")]


@pytest.mark.skipif(not contamination.has_backbone(), reason="the extra 'pretrained' is not installed")
def test_images_unlike_the_others_are_printed_with_the_reason(tmp_path: Path) -> None:
    images = wave_images(60, 120, 6)
    images[7] = 230 + images[7] // 16
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i:03}.png")
    lines = oddlens("check", tmp_path).stdout.splitlines()
    (i,) = [i for i, line in enumerate(lines) if line.startswith("warning: 1 training image is far from the others")]
    assert f"{tmp_path / '007.png'} (" in lines[i + 1]
    assert "(brighter" in lines[i + 1]


def test_another_suffix_than_html_is_refused(parts: Path, tmp_path: Path) -> None:
    assert "pages end in .html" in error_of("check", parts, "--html", tmp_path / "page.pdf", "--budget", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_saved_and_named_in_the_result(parts: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run_json("check", parts, "--html", page, "--budget", 0)
    assert result["files"] == {"page": str(page)}
    assert "oddlens check" in page.read_text()
