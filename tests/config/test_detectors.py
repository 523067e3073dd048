"""The table of families: which names there are, and what settings they stand for."""

from __future__ import annotations

import pytest

from oddlens.config.detectors import (
    FAMILIES,
    AutoencoderSettings,
    AutoSettings,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    RotationSettings,
    settings_class,
)
from oddlens.config.parse import parse_model
from oddlens.errors import SettingsError


def test_each_family_is_in_the_table_under_its_name() -> None:
    assert {
        "autoencoder": AutoencoderSettings,
        "dictionary": DictionarySettings,
        "rotation": RotationSettings,
        "transforms": RotationSettings,
        "defects": DefectsSettings,
        "ensemble": EnsembleSettings,
        "crossfit": CrossfitSettings,
    }.items() <= FAMILIES.items()


def test_folds_have_the_training_of_their_single_family() -> None:
    settings = CrossfitSettings(model=DictionarySettings(), folds=3)
    assert (settings.strategy, settings.n_folds, settings.base) == ("folds", 3, DictionarySettings())


def test_a_plan_names_its_members() -> None:
    member = Member(model=AutoencoderSettings(), training={"seed": 7})  # type: ignore[arg-type]
    settings = EnsembleSettings(members=(member,))
    assert settings.planned_members == (member,)
    assert settings.training_class is EnsembleSettings


def test_auto_is_named_like_a_family_without_being_one() -> None:
    assert settings_class("auto") is AutoSettings
    assert settings_class("transforms") is RotationSettings
    assert settings_class("nonsense") is settings_class(["auto"]) is None
    assert "auto" not in FAMILIES
    assert AutoSettings().training_class is EnsembleSettings


def test_a_composite_cannot_be_a_member_of_a_composite() -> None:
    folds = {"family": "crossfit", "model": {"family": "crossfit", "model": {"family": "dictionary"}}}
    with pytest.raises(SettingsError, match=r"'model': must be a single detector"):
        parse_model(folds, "test")
    with pytest.raises(SettingsError, match="must be a single detector"):
        Member(model=CrossfitSettings(model=DictionarySettings()))


def test_an_unknown_family_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'os\.system' is not a detector; there are auto, autoencoder, dictionary"):
        parse_model({"family": "os.system"}, "test")
