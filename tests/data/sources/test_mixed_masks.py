"""Masks among images are refused, and images that only look alike by their names are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from oddlens.data.open import open_dataset, open_images
from oddlens.data.sources.mixed_masks import looks_like_mask
from oddlens.errors import DataError


def save(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def photograph(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(128, 30, (48, 48, 3)).clip(0, 255)


def mask(level: int = 255) -> Any:
    pixels = np.zeros((48, 48))
    pixels[10:20, 10:20] = level
    return pixels


SCHEMES = [
    ("e{i}.jpg", "e{i}.png"),  # as the magnetic tile defects are published
    ("Imgs/e{i}.JPG", "Imgs/e{i}.PNG"),
    ("e{i}.png", "e{i}_mask.png"),
    ("e{i}.png", "e{i}_GT.bmp"),
    ("e{i}.png", "e{i}-label.tif"),
    ("e{i}.png", "mask_e{i}.png"),
    ("images/e{i}.jpg", "masks/e{i}.png"),
    ("images/e{i}.jpg", "Labels/e{i}.png"),
]


@pytest.mark.parametrize(("image_name", "mask_name"), SCHEMES)
@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_masks_among_images_are_refused_with_the_fix(
    tmp_path: Path, image_name: str, mask_name: str, level: int
) -> None:
    for i in range(45):
        save(tmp_path / "parts" / image_name.format(i=i), photograph(i))
        save(tmp_path / "parts" / mask_name.format(i=i), mask(level))
    for open_it in (open_dataset, lambda path: open_images([path])):
        with pytest.raises(
            DataError, match=r"is a mask among the images.*move masks to ground_truth/<defect>/<name>_mask"
        ):
            open_it(tmp_path / "parts")


def test_masks_in_a_class_folder_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "test/good/0.png", photograph())
    save(tmp_path / "test/dent/0.jpg", photograph())
    save(tmp_path / "test/dent/0.png", mask())
    with pytest.raises(DataError, match=r"test/dent/0\.png: is a mask"):
        open_dataset(tmp_path)


def test_one_mask_among_a_few_pairs_is_enough(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i}.jpg", photograph(i))
        save(tmp_path / f"{i}.png", photograph(i) if i != 7 else mask())
    with pytest.raises(DataError, match=r"/7\.png: is a mask"):
        open_images([tmp_path])


def test_the_same_photograph_in_two_formats_is_no_mask(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "bmp"):
        save(tmp_path / f"a.{suffix}", photograph())
    save(tmp_path / "b.jpg", photograph())
    save(tmp_path / "b_label.jpg", photograph(1))  # a photograph of a label
    save(tmp_path / "labels/c.png", photograph(2))
    assert len(open_images([tmp_path])) == 6


def test_two_valued_images_are_images_where_no_name_says_otherwise(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"scans/{i}.png", mask())
        save(tmp_path / f"scans/{i}.bmp", mask())
    save(tmp_path / "scans/stamp.png", photograph())
    assert len(open_images([tmp_path])) == 7


def test_blurred_masks_are_masks(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.jpg", photograph(i))
        blurred = Image.fromarray(mask().astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
        save(tmp_path / f"{i}.png", np.asarray(blurred))
    with pytest.raises(DataError, match="is a mask among the images"):
        open_images([tmp_path])


def test_images_in_a_folder_of_masks_that_are_masks_of_nothing_are_images(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"masks/{i}.png", mask())  # photomasks
        save(tmp_path / f"label/{i + 10}.png", mask())  # of a bottle, backlit
    save(tmp_path / "cap/0.png", mask())
    assert len(open_images([tmp_path])) == 7
    dark = np.random.default_rng(0).integers(0, 10, (48, 48))
    save(tmp_path / "dark/0.png", dark)
    save(tmp_path / "dark/0.jpg", dark)
    assert len(open_images([tmp_path / "dark"])) == 2


def test_a_damaged_pair_is_left_to_the_decoder(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", photograph())
    (tmp_path / "a.png").write_text("damaged")
    assert len(open_images([tmp_path])) == 2


def test_soft_edges_and_labels_are_masks_and_photographs_are_not(tmp_path: Path) -> None:
    soft = np.asarray(Image.open(save(tmp_path / "soft.jpg", mask(), quality=80)))
    labels = np.zeros((48, 48, 1))
    labels[:20, :40, 0] = np.arange(800).reshape(20, 40) % 12
    colour = np.zeros((48, 48, 3))
    colour[5:9, 5:9] = (255, 0, 0)
    for pixels in (soft[..., None], labels, colour, np.zeros((4, 4, 1)), np.full((4, 4, 1), 40000, np.uint16)):
        assert looks_like_mask(pixels.astype(pixels.dtype if pixels.dtype == np.uint16 else np.uint8))
    assert not looks_like_mask(photograph().astype(np.uint8))
    assert not looks_like_mask(np.linspace(0, 255, 4096).astype(np.uint8).reshape(64, 64, 1))
