"""Fitting as a whole: disjoint parts, one result, and nothing written where it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrow_images import arrow_images

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, CrossfitSettings, DictionarySettings
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.errors import CalibrationError, DataError, SettingsError
from oddlens.training.fit import fit
from oddlens.training.resolve import FitConfig
from oddlens.training.summary import FitResult

SMALL = AutoencoderSettings(widths=(4,), latent_dim=4)


def fit_arrows(model: Any, folder: Path | None = None, **changes: Any) -> FitResult:
    """Fit on 120 arrows, with other parameters of `Detector` as they are by default."""
    values = {
        "training": TrainingSettings(epochs=1) if model is SMALL else None, "decision": DecisionSettings(),
        "size": None, "roi": None, "device": "cpu", "budget": None, "hold_out": True,
    }  # fmt: skip
    images = replace(ImageSet.from_array(arrow_images(120)), source="arrows", normal="up")
    return fit(FitConfig(model=model, **(values | changes)), images, folder, False, None)


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
