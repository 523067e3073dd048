"""What all families have in common, and how they enter the table."""

from __future__ import annotations

from typing import Literal

import pytest

from oddlens.config.detectors import PadimSettings
from oddlens.config.family import FAMILIES, FamilySettings
from oddlens.config.from_scratch import AutoencoderSettings, DefectsSettings, DictionarySettings, RotationSettings
from oddlens.config.parse import parse_model

SINGLE = (AutoencoderSettings, DictionarySettings, RotationSettings, DefectsSettings, PadimSettings)


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
