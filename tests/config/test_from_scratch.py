"""The families that are trained on normal images alone."""

from __future__ import annotations

import pytest

from oddlens.config.from_scratch import AutoencoderSettings, DefectsSettings, DictionarySettings, RotationSettings
from oddlens.config.parse import parse_model


@pytest.mark.parametrize("settings", [AutoencoderSettings, DefectsSettings, DictionarySettings, RotationSettings])
def test_no_family_has_a_backbone(settings: type[AutoencoderSettings]) -> None:
    assert not settings().uses_pretrained
    assert settings().backbones == frozenset()


@pytest.mark.parametrize("name", ["rotation", "transforms"])
def test_both_names_of_the_rotation_family_are_accepted_and_stay(name: str) -> None:
    settings = parse_model({"family": name}, "test")
    assert type(settings) is RotationSettings
    assert settings.family == settings.title == name
    assert parse_model(settings.model_dump(mode="json"), "test") == settings


def test_the_rotation_family_is_called_rotation_by_default() -> None:
    assert RotationSettings().family == "rotation"


def test_the_title_of_the_defects_family_has_its_scale() -> None:
    assert DefectsSettings().title == "defects"
    assert DefectsSettings(shrink=2).title == "defects at 1/2 of the size"
