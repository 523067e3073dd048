"""Tests of the nearest-thumbnail baseline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import thumbnails
from dataset_files import write_idx_files

from oddlens.data.image_set import ImageSet
from oddlens.evaluation import corruptions


def test_baseline_reports_an_auroc_per_kind() -> None:
    pixels = np.zeros((5, 8, 8, 1), dtype=np.uint8)
    test = ImageSet.from_array(pixels, kind=["good", "good", "near", "far", "far"], label=[0, 0, 1, 1, 1])
    table = thumbnails.aurocs(test, np.array([1.0, 3.0, 2.0, 4.0, 5.0]))
    assert table["per_class"] == {"near": 0.5, "far": 1.0}
    assert table["image_auroc"] == pytest.approx(5 / 6)


def test_baseline_of_digits_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert thumbnails.main(["digits", "--normal", "0"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["8"]["image_auroc"] > 0.95  # digits are 8 x 8 themselves
    assert set(table["32"]["per_class"]) == set("123456789")


@pytest.mark.usefixtures("no_data_elsewhere")
def test_baseline_of_a_recipe_uses_its_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx_files(tmp_path / "MNIST/raw")
    assert thumbnails.main(["mnist", "--recipe", "mnist", "--data", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)["8"]["per_class"]) == {*corruptions.DISTORTIONS, *corruptions.PATTERNS}
    assert "left out the images of cifar10" in err


def test_unknown_class_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert thumbnails.main(["digits", "--normal", "ten"]) == 1
    assert capsys.readouterr().err.startswith("error: digits: has no class 'ten'")
