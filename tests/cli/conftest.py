"""Fixtures for the tests of commands: images of parts, a detector fitted on them, digits as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, run_json
from PIL import Image

from oddlens.data.image_set import DataSet


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parts in the MVTec layout: stripes are normal, a bright spot is a defect."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for folder, count in (("train/good", 130), ("test/good", 12), ("test/spot", 6)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            image = 90 + 40 * np.sin(np.arange(24) * rng.uniform(0.3, 0.9) + rng.uniform(0, 6))[None, :]
            image = image + rng.normal(0, 12, (20, 24))
            if folder == "test/spot":
                image[4:9, 5:11] = 250
                mask = np.zeros((20, 24), dtype=np.uint8)
                mask[4:9, 5:11] = 255
                (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:03}_mask.png")
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / folder / f"{i:03}.png")
    return root


@pytest.fixture(scope="session")
def part(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a detector that the command line fitted on `parts`; tests do not change it."""
    path = tmp_path_factory.mktemp("fit") / "part.safetensors"
    result = run_json("fit", parts, "-o", path, *QUICK, "--epochs", 4, "--threads", 1)
    assert result["files"] == {"detector": str(path)}
    assert result["seconds"]["fit"] > 0
    assert result["n_training"] + result["n_calibration"] == 130
    assert list(path.parent.iterdir()) == [path], "checkpoints are gone once the detector is saved"
    return path


@pytest.fixture
def digit_files(digits: DataSet, tmp_path: Path) -> Path:
    """A folder with 150 test digits, none of which `digits_detector` was fitted on."""
    test = digits.test.load(digits.test.choose_spec(None))
    for i, pixels in enumerate(test[:150]):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{i:03}.png")
    return tmp_path
