"""Fitting as a whole: disjoint parts, one result, and nothing written where it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrow_images import arrow_images

from oddlens.config.base import DecisionSettings, Tiling, TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    AutoSettings,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.errors import CalibrationError, DataError, SettingsError
from oddlens.models.patch_dictionary import Dictionary
from oddlens.training import tile_pixels
from oddlens.training.fit import fit
from oddlens.training.resolve import FitConfig
from oddlens.training.summary import FitResult

SMALL = AutoencoderSettings(widths=(4,), latent_dim=4)


def fit_arrows(model: Any, folder: Path | None = None, width: int = 16, **changes: Any) -> FitResult:
    """Fit on 120 arrows on images of that width, with other parameters of `Detector` as they are by default."""
    values = {
        "training": TrainingSettings(epochs=1) if model is SMALL else None, "decision": DecisionSettings(),
        "size": None, "roi": None, "device": "cpu", "budget": None, "hold_out": True,
    }  # fmt: skip
    images = replace(ImageSet.from_array(wide(arrow_images(120), width)), source="arrows", normal="up")
    return fit(FitConfig(model=model, **(values | changes)), images, folder, False, None)


def wide(pixels: Pixels, width: int) -> Pixels:
    """Images (N, H, W, C) continued to the right to that width by copies of themselves."""
    return pixels[:, :, np.arange(width) % pixels.shape[2]]


def test_training_and_calibration_images_are_disjoint_and_complete() -> None:
    result = fit_arrows(SMALL)
    assert result.calibration is not None
    train, calibration = result.statistics["training.fingerprints"], fingerprints(result.calibration.pixels)
    assert len(train) == result.manifest.data.n_training
    assert len(calibration) == pytest.approx(36, abs=8)  # 30%, for the default rate; near-duplicates stay together
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, calibration])), np.sort(fingerprints(arrow_images(120)))
    )


def test_the_manifest_says_where_the_images_come_from() -> None:
    data = fit_arrows(SMALL).manifest.data
    assert (data.source, data.normal) == ("arrows", "up")


def test_without_holding_out_all_images_are_training_images() -> None:
    result = fit_arrows(SMALL, hold_out=False)
    assert result.manifest.data.n_training == 120
    assert result.calibration is not None
    assert len(result.calibration.pixels) == 0


def test_folds_are_calibrated_on_their_training_images() -> None:
    result = fit_arrows(CrossfitSettings(model=DictionarySettings(atoms=10), folds=3))
    assert (result.folds, result.calibration) == (3, None)
    assert result.manifest.data.n_training == len(result.statistics["calibration.scores"]) == 120


def test_training_writes_its_history_and_checkpoints_to_the_folder(tmp_path: Path) -> None:
    result = fit_arrows(SMALL, tmp_path)
    assert [row["epoch"] for row in result.history] == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".oddlens.json", "checkpoints", "history.jsonl"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"decision": DecisionSettings(false_alarm_rate=0.001)}, CalibrationError),
        ({"roi": "0,0,2,1"}, DataError),
        ({"budget": -1.0}, SettingsError),
    ],
)
def test_what_is_refused_is_refused_before_training(
    changes: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        fit_arrows(SMALL, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_images_are_divided_before_they_are_cut_into_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model gets tiles, image by image, and knows how many there are of each; calibration has whole images."""
    seen: list[tuple[tuple[int, ...], int]] = []
    real = Dictionary.fit_closed_form

    def fit_closed_form(self: Dictionary, images: torch.Tensor, seed: int) -> None:
        seen.append((tuple(images.shape), self.tiles_per_image))
        real(self, images, seed)

    monkeypatch.setattr(Dictionary, "fit_closed_form", fit_closed_form)
    result = fit_arrows(DictionarySettings(atoms=10), width=40, tile=16)
    assert result.manifest.tiling == Tiling(height=16, width=16, overlap=4)
    assert result.manifest.input == result.backend.spec
    count = result.manifest.tiling.count(result.manifest.input)
    assert count > 1
    assert seen == [((count * result.manifest.data.n_training, 16, 16, 1), count)]
    assert result.calibration is not None
    assert result.calibration.pixels.shape[1:3] == (result.manifest.input.height, result.manifest.input.width)
    assert len(result.statistics["training.scores"]) == result.manifest.data.n_training
    assert result.manifest.remarks[0].startswith("tiles: images of ")


def test_it_is_said_that_not_all_tiles_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_pixels, "MAX_TRAINING_PIXELS", 1)
    result = fit_arrows(DictionarySettings(atoms=10), width=40, tile=16)
    assert any(remark.startswith("tiles: 1 of the ") for remark in result.manifest.remarks)


def test_an_ensemble_of_tiled_models_is_repeated_by_its_plan() -> None:
    first = fit_arrows(AutoSettings(), width=40, tile=16, budget=3.0)
    assert first.manifest.tiling is not None
    assert isinstance(first.manifest.model, EnsembleSettings)
    again = fit_arrows(first.manifest.model, width=40, tile=16)
    assert again.manifest.tiling == first.manifest.tiling
    pixels = wide(arrow_images(4, seed=5), 40)
    np.testing.assert_array_equal(again.backend(pixels).anomaly_score, first.backend(pixels).anomaly_score)
