"""The first step of fitting: defaults are filled in, and settings that do not go together are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from arrow_images import arrow_images
from toy_family import nearest_family

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    AutoSettings,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    Member,
    PadimSettings,
    RotationSettings,
)
from oddlens.data.training_images import ENSEMBLE_SIDES, PRETRAINED_SIDES, MaxSides
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataError, SettingsError
from oddlens.models.registry import family_of
from oddlens.training.resolve import FitConfig, FitPlan, resolve
from oddlens.training.tiling import Tile

FOLDS = CrossfitSettings(model=DictionarySettings(), folds=3)


def resolve_model(
    model: Any, n_images: int = 60, has_groups: bool = False, started: float = 0.0, **changes: Any
) -> FitPlan:
    """The plan for a model, with other parameters of `Detector` as they are by default."""
    values = {
        "training": None, "decision": DecisionSettings(), "size": None, "roi": None, "device": "cpu", "budget": None,
        "hold_out": True,
    }  # fmt: skip
    return resolve(FitConfig(model=model, **(values | changes)), n_images, has_groups, started)


@pytest.mark.parametrize(("installed", "max_sides"), [(True, PRETRAINED_SIDES), (False, ENSEMBLE_SIDES)])
def test_auto_is_an_ensemble_with_a_budget_and_a_larger_input(
    installed: bool, max_sides: MaxSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddlens.training.resolve.is_installed", lambda: installed)
    plan = resolve_model("auto", started=100.0)
    assert plan.settings == AutoSettings()
    assert (plan.strategy, plan.is_ensemble, plan.max_sides) == ("auto", True, max_sides)
    assert plan.deadline == 100.0 + 300.0 * 0.95 - 3.0
    assert not plan.settings.tolerates_contamination
    assert resolve_model(AutoSettings(robust=True)).settings.tolerates_contamination


def test_a_single_family_has_its_default_training_and_no_deadline() -> None:
    plan = resolve_model("rotation")
    assert plan.settings == RotationSettings()
    assert plan.training == family_of(RotationSettings()).default_training
    assert (plan.strategy, plan.is_ensemble, plan.max_sides, plan.deadline) == ("single", False, None, math.inf)
    assert plan.device == torch.device("cpu")


@pytest.mark.parametrize("tile", ["auto", "off", 64])
def test_tiles_are_as_requested_and_not_chosen_yet(tile: Tile) -> None:
    plan = resolve_model("dictionary", tile=tile, budget=60)
    assert (plan.tile, plan.tiling, plan.seconds) == (tile, None, 60)


def test_folds_are_not_tiled() -> None:
    assert resolve_model(FOLDS).tile == "off"
    with pytest.raises(SettingsError, match="--folds cannot be combined with --tile"):
        resolve_model(FOLDS, tile=64)


def test_a_wrong_tile_is_refused() -> None:
    with pytest.raises(SettingsError, match="tile: must be 'auto', 'off' or a side"):
        resolve_model("dictionary", tile=3)


def test_both_names_of_the_rotation_family_are_the_same_but_for_the_name() -> None:
    plan = resolve_model("transforms")
    assert plan.settings == RotationSettings(family="transforms")
    assert plan.training == resolve_model("rotation").training


def test_settings_of_the_user_replace_the_defaults_of_the_family_one_by_one() -> None:
    plan = resolve_model("rotation", training=TrainingSettings(epochs=3, seed=5))
    default = family_of(RotationSettings()).default_training
    assert plan.training == default.model_copy(update={"epochs": 3, "seed": 5})
    assert plan.training.optimizer == default.optimizer != TrainingSettings().optimizer


def test_folds_train_as_their_family_and_use_all_images() -> None:
    plan = resolve_model(FOLDS, training=TrainingSettings(seed=3))
    assert (plan.strategy, plan.is_ensemble, plan.holds_out, plan.training.seed) == ("folds", False, False, 3)


def test_a_plan_has_its_own_random_seed_unless_the_user_gives_one() -> None:
    member = Member(model=DictionarySettings(), training=TrainingSettings(seed=4))
    ensemble = EnsembleSettings(members=(member,))
    assert resolve_model(ensemble).training.seed == 4
    assert resolve_model(ensemble, training=TrainingSettings(seed=5)).training.seed == 5
    assert resolve_model(ensemble).strategy == "plan"


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (Detector("auto", budget=-5.0), "leaves no time"),
        (Detector("ensemble"), "needs members"),
        (Detector("dictionary", training=TrainingSettings(epochs=3)), "fitted in one step"),
        (Detector("autoencoder", training=TrainingSettings(optimizer="muon")), "use adam"),
        (Detector("auto", training=TrainingSettings(epochs=3)), "set the budget"),
        (Detector("autoencoder2"), "'autoencoder2' is not a detector; there are auto, autoencoder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(detector: Detector, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        detector.fit(arrow_images(60))


def test_a_plan_takes_no_budget() -> None:
    with pytest.raises(SettingsError, match="takes no budget"):
        resolve_model(EnsembleSettings(members=(Member(model=DictionarySettings()),)), budget=10.0)


def test_the_training_of_an_ensembles_members_cannot_be_set() -> None:
    member = Member(model=AutoencoderSettings(widths=(8,), latent_dim=8), training=TrainingSettings(epochs=1))
    with pytest.raises(SettingsError, match="epochs cannot be set"):
        resolve_model(EnsembleSettings(members=(member,)), training=TrainingSettings(epochs=3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"decision": DecisionSettings(confidence=0.9)}, SettingsError, "--folds cannot be combined with groups"),
        ({"has_groups": True}, SettingsError, "--folds cannot be combined with groups"),
        ({"hold_out": False}, SettingsError, "calibration images from elsewhere"),
        ({"decision": DecisionSettings(method="train_percentile")}, SettingsError, "gives no training scores"),
        ({"n_images": 3}, DataError, "3 images in 3 folds can guarantee nothing"),
        ({"decision": DecisionSettings(false_alarm_rate=0.01)}, CalibrationError, "60 .* images"),
    ],
)
def test_folds_that_can_guarantee_nothing_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve_model(FOLDS, **changes)


def test_one_image_is_too_few() -> None:
    with pytest.raises(DataError, match=r"1 normal image\(s\) found; fitting needs at least 2"):
        resolve_model("auto", n_images=1)


def test_leave_one_out_is_the_default_of_families_that_support_it() -> None:
    with nearest_family() as settings:
        plan = resolve_model(settings)
        assert (plan.leaves_one_out, plan.holds_out) == (True, False)
        for changes in (
            {"calibration": "held_out"},
            {"decision": DecisionSettings(confidence=0.9)},
            {"decision": DecisionSettings(method="train_percentile")},
            {"has_groups": True},
        ):
            plan = resolve_model(settings, **changes)
            assert (plan.leaves_one_out, plan.holds_out) == (False, True)
        assert not resolve_model(settings, hold_out=False).leaves_one_out
    for other in ("dictionary", "auto", "rotation"):
        assert not resolve_model(other).leaves_one_out
    assert not resolve_model(FOLDS).leaves_one_out


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("dictionary", {}, "the detector dictionary, whose scores of training images say nothing"),
        ("auto", {}, "the detector auto"),
        (None, {"has_groups": True}, "groups with a threshold each"),
        (None, {"decision": DecisionSettings(confidence=0.9)}, "a confidence"),
        (None, {"decision": DecisionSettings(method="train_percentile")}, "the method train_percentile"),
        (None, {"hold_out": False}, "calibration images from elsewhere"),
    ],
)
def test_leave_one_out_that_cannot_be_had_is_refused(model: str | None, changes: dict[str, Any], message: str) -> None:
    with nearest_family() as settings, pytest.raises(SettingsError, match=f"cannot be combined with {message}"):
        resolve_model(model or settings, calibration="leave_one_out", **changes)


def test_a_percentile_of_training_scores_goes_without_a_backbone() -> None:
    percentile = DecisionSettings(method="train_percentile")
    plan = resolve_model(AutoSettings(), decision=percentile)
    assert plan.settings == AutoSettings(pretrained=False)
    with pytest.raises(SettingsError, match="the training scores of padim are far below those of new images"):
        resolve_model(PadimSettings(), decision=percentile)


@pytest.mark.parametrize(
    "settings",
    [
        PadimSettings(),
        CrossfitSettings(model=PadimSettings()),
        EnsembleSettings(members=(Member(model=PadimSettings()),)),
    ],
    ids=["single", "folds", "plan"],
)
def test_families_with_a_backbone_get_a_larger_input_however_they_are_trained(settings: FamilySettings) -> None:
    assert settings.uses_pretrained
    assert resolve_model(settings).max_sides == PRETRAINED_SIDES
