"""The families that compare the features of a backbone."""

from __future__ import annotations

from typing import Literal

import pytest

from oddlens.config.with_backbone import FeaturesSettings, PadimSettings, PatchcoreSettings


@pytest.mark.parametrize("settings", [FeaturesSettings, PadimSettings, PatchcoreSettings])
def test_each_family_has_the_backbone_of_the_extra_by_default(settings: type[PadimSettings]) -> None:
    assert settings().uses_pretrained
    assert settings().backbones == {"efficientnet-lite0"}
    assert settings(backbone="own.onnx").backbones == {"own.onnx"}


@pytest.mark.parametrize("light", ["varies", "fixed"])
def test_light_matters_where_it_is_fixed(light: Literal["varies", "fixed"]) -> None:
    assert PadimSettings(light=light).light_varies == PatchcoreSettings(light=light).light_varies == (light == "varies")
    assert not FeaturesSettings().light_varies


def test_classes_are_compared_with_a_weight_and_a_backbone_that_has_classes() -> None:
    assert FeaturesSettings().compares_classes
    assert not FeaturesSettings(class_weight=0).compares_classes
    assert not FeaturesSettings(backbone="own.onnx").compares_classes
    assert not PadimSettings().compares_classes


def test_a_change_of_the_backbone_gives_other_settings() -> None:
    changed = PadimSettings(side=64).map_backbones(
        lambda settings: settings.model_copy(update={"backbone": "own.onnx"})
    )
    assert changed == PadimSettings(side=64, backbone="own.onnx")
