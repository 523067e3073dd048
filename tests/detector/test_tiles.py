"""Tiles, whole: small defects in long strips, files, the program in docs/how-to/deploy.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from strip_images import strip_images

from oddlens.config.base import DecisionSettings, Tiling
from oddlens.config.detectors import DictionarySettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.training.tiling import Tile

ROOT = Path(__file__).parent.parent.parent
DICTIONARY = DictionarySettings(place=0, atoms=30)
DECISION = DecisionSettings(false_alarm_rate=0.2)


def fit(pixels: Pixels, tile: Tile, roi: str | None = None) -> Detector:
    return Detector(DICTIONARY, decision=DECISION, tile=tile, roi=roi).fit(pixels)


def test_a_small_spot_on_long_strips_is_detected_in_tiles_and_lost_without() -> None:
    """A spot of 12 pixels on strips of 2048 x 32."""
    train = strip_images(40, seed=0)
    new = np.concatenate([strip_images(20, seed=1), strip_images(20, seed=2, with_spot=True)])
    is_anomalous = np.arange(40) >= 20
    tiled, whole = fit(train, 48), fit(train, "off")
    assert tiled.manifest.tiling == Tiling(height=32, width=48, overlap=12)
    assert roc_auc_score(is_anomalous, tiled.score(new)) >= 0.95
    assert roc_auc_score(is_anomalous, whole.score(new)) < 0.65


@pytest.mark.parametrize(("channels", "roi"), [(1, None), (3, "0.1,0,0.6,1")])
def test_the_program_in_the_docs_scores_as_oddlens_does(channels: int, roi: str | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    detector = fit(rng.integers(60, 190, (40, 30, 70, channels), dtype=np.uint8), 24, roi=roi)
    export(detector, tmp_path / "part.onnx")
    Image.fromarray(rng.integers(0, 256, (45, 90, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    page = (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8")
    (program,) = [code for code in re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL) if "def axis" in code]
    assert len([line for line in program.splitlines() if line]) <= 40
    arguments = [sys.executable, "-c", program, "part.onnx", "image.png", "map.npy"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100)
    for loaded in (detector, Detector.load(tmp_path / "part.onnx")):
        (expected,) = loaded.iter_predictions([tmp_path / "image.png"])
        assert expected.anomaly_map is not None
        assert float(done.stdout) == pytest.approx(expected.anomaly_score[0], rel=1e-4)
        scale = np.abs(expected.anomaly_map).max()
        np.testing.assert_allclose(np.load(tmp_path / "map.npy"), expected.anomaly_map[0], atol=1e-4 * scale)


def test_a_strip_of_one_pixel_is_tiled() -> None:
    strips = np.random.default_rng(0).integers(0, 256, (40, 1, 500, 1), dtype=np.uint8)
    detector = fit(strips, 64)
    assert (detector.spec.height, detector.spec.width) == (4, 500)
    assert np.isfinite(detector.score(strips[:3])).all()


def test_images_of_other_sizes_are_scored_and_tiles_larger_than_them_are_none() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (40, 20, 60, 1), dtype=np.uint8)
    assert fit(train, 256).manifest.tiling is None
    other = rng.integers(0, 256, (2, 33, 90, 1), dtype=np.uint8)
    assert np.isfinite(fit(train, 24).score(other)).all()
