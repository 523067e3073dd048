"""The table of families: which names there are, and what settings they stand for."""

from __future__ import annotations

from typing import Literal

import pytest

from oddlens.config.detectors import (
    FAMILIES,
    AutoencoderSettings,
    AutoSettings,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    Member,
    RotationSettings,
    settings_class,
)
from oddlens.config.parse import parse_model
from oddlens.errors import SettingsError

SINGLE = (AutoencoderSettings, DictionarySettings, RotationSettings, DefectsSettings)


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


@pytest.mark.parametrize("name", ["rotation", "transforms"])
def test_both_names_of_the_rotation_family_are_accepted_and_stay(name: str) -> None:
    settings = parse_model({"family": name}, "test")
    assert type(settings) is RotationSettings
    assert settings.family == settings.title == name
    assert parse_model(settings.model_dump(mode="json"), "test") == settings


def test_the_rotation_family_is_called_rotation_by_default() -> None:
    assert RotationSettings().family == "rotation"


def test_a_subclass_of_family_settings_enters_the_table() -> None:
    from toy_family import toy_family

    with toy_family() as settings:
        assert FAMILIES["toy"] is type(settings)
        assert parse_model({"family": "toy"}, "test") == settings
    assert "toy" not in FAMILIES


@pytest.mark.parametrize("settings", SINGLE)
def test_a_single_family_has_one_fold_and_is_its_own_base(settings: type[FamilySettings]) -> None:
    model = settings()  # type: ignore[call-arg]  # the family's name has a default in each subclass
    assert (model.strategy, model.is_composite, model.n_folds, model.planned_members) == ("single", False, 1, ())
    assert model.base is model


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


def test_two_families_cannot_have_one_name() -> None:
    with pytest.raises(TypeError, match="'autoencoder' is defined by AutoencoderSettings; choose another name"):

        class SecondSettings(FamilySettings):
            family: Literal["autoencoder"] = "autoencoder"

    assert FAMILIES["autoencoder"] is AutoencoderSettings


def test_a_subclass_without_a_name_of_its_own_does_not_replace_its_base() -> None:
    class VariantSettings(AutoencoderSettings):
        noise: float = 0.1

    assert FAMILIES["autoencoder"] is AutoencoderSettings
    assert issubclass(VariantSettings, AutoencoderSettings)


def test_a_composite_cannot_be_a_member_of_a_composite() -> None:
    folds = {"family": "crossfit", "model": {"family": "crossfit", "model": {"family": "dictionary"}}}
    with pytest.raises(SettingsError, match=r"'model': must be a single detector"):
        parse_model(folds, "test")
    with pytest.raises(SettingsError, match="must be a single detector"):
        Member(model=CrossfitSettings(model=DictionarySettings()))


def test_an_unknown_family_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'os\.system' is not a detector; there are auto, autoencoder, dictionary"):
        parse_model({"family": "os.system"}, "test")


def test_the_title_of_the_defects_family_has_its_scale() -> None:
    assert DefectsSettings().title == "defects"
    assert DefectsSettings(shrink=2).title == "defects at 1/2 of the size"
