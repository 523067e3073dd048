"""Strategies: each way to train is followed, and old runs are cleared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from arrow_images import arrow_images

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import (
    FAMILIES,
    AutoencoderSettings,
    CrossfitSettings,
    EnsembleSettings,
    FamilySettings,
    Member,
    Strategy,
)
from oddlens.data.image_set import ImageSet
from oddlens.data.splitting import SplitImages, split_training_images
from oddlens.data.training_images import load_training_images
from oddlens.errors import SettingsError
from oddlens.io.own_folder import TRAINING_FILES, claim
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.base import Model
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import Ensemble
from oddlens.training import strategies
from oddlens.training.resolve import FitPlan

SMALL = AutoencoderSettings(widths=(4,), latent_dim=4)
TRAINING = TrainingSettings(epochs=1)
CASES = {
    "single": (SMALL, Autoencoder),
    "plan": (EnsembleSettings(members=(Member(model=SMALL, training=TRAINING),)), Ensemble),
    "folds": (CrossfitSettings(model=SMALL, folds=2), CrossConformal),
}


def fit_plan(settings: FamilySettings, **changes: Any) -> FitPlan:
    values: dict[str, Any] = {
        "settings": settings, "training": TRAINING, "decision": DecisionSettings(), "size": None, "max_sides": None,
        "roi": None, "device": torch.device("cpu"), "deadline": float("inf"), "holds_out": True,
    }  # fmt: skip
    return FitPlan(**(values | changes))


@pytest.fixture(scope="module")
def split() -> SplitImages:
    loaded = load_training_images(ImageSet.from_array(arrow_images(60)), None, None, None)
    return split_training_images(loaded, DecisionSettings(), 0, hold_out=True, standardize=True)


@pytest.mark.parametrize("strategy", CASES)
def test_each_strategy_trains_its_kind_of_model_and_writes_the_history(
    strategy: str, split: SplitImages, tmp_path: Path
) -> None:
    settings, model_class = CASES[strategy]
    plan = fit_plan(settings)
    assert plan.strategy == strategy
    result = strategies.train_model(plan, split, tmp_path, False, None)
    assert isinstance(result.model, model_class)
    assert result.settings == settings
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == result.history


def test_every_strategy_of_a_family_has_a_trainer() -> None:
    assert {settings.strategy for settings in FAMILIES.values()} == set(CASES)
    assert set(strategies.TRAINERS) == {"auto", *CASES} == set(get_args(Strategy))


def test_the_random_seed_of_the_training_is_that_of_the_model(split: SplitImages) -> None:
    weights = []
    for seed in (1, 1, 2):
        plan = fit_plan(SMALL, training=TrainingSettings(epochs=1, seed=seed))
        model: Model = strategies.train_model(plan, split, None, False, None).model
        weights.append(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_earlier_run_in_the_folder_is_removed(split: SplitImages, tmp_path: Path) -> None:
    claim(tmp_path, TRAINING_FILES)
    (tmp_path / "checkpoints").mkdir()
    old = tmp_path / "checkpoints" / "epoch-000009.safetensors"
    old.write_bytes(b"an old run")
    strategies.train_model(fit_plan(CASES["plan"][0]), split, tmp_path, False, None)
    assert not old.exists()


def test_checkpoints_that_oddlens_did_not_write_are_refused_and_stay(split: SplitImages, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/epoch-000009.safetensors").write_bytes(b"the user's")
    with pytest.raises(SettingsError, match="checkpoints: was not written by oddlens"):
        strategies.train_model(fit_plan(CASES["plan"][0]), split, tmp_path, False, None)
    assert (tmp_path / "checkpoints/epoch-000009.safetensors").read_bytes() == b"the user's"
