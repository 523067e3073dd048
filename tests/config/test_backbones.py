"""The names and descriptions of backbones in settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from oddlens.config.backbones import BackboneOutput, OnnxBackbone
from oddlens.config.detectors import (
    AutoSettings,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
    FeaturesSettings,
    Member,
    PadimSettings,
)
from oddlens.config.parse import parse_model, with_backbone, with_file_of_own
from oddlens.errors import SettingsError

OWN = OnnxBackbone(
    name="own.onnx",
    source="the file own.onnx",
    licence="mine",
    sha256="0" * 64,
    height=32,
    width=48,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    outputs=(BackboneOutput(name="y", layout="tokens", channels=8, rows=4, columns=6, prefix=1),),
)


@pytest.mark.parametrize(
    "name", ["efficientnet-lite0", "own.onnx", "/a b/own.ONNX", "timm:resnet18", "part.safetensors"]
)
def test_names_of_backbones_pass(name: str) -> None:
    assert PadimSettings(backbone=name).backbones == {name}


@pytest.mark.parametrize("name", ["", "resnet18", "timm:", "own.pt", 3, None])
def test_other_names_are_refused_with_what_is_allowed(name: Any) -> None:
    with pytest.raises(SettingsError, match=r"'backbone': must be efficientnet-lite0, a FILE.onnx, timm:NAME, or"):
        parse_model({"family": "padim", "backbone": name}, "test")


def test_a_described_backbone_survives_json_at_any_depth() -> None:
    padim = PadimSettings(backbone=OWN)
    for settings in (padim, EnsembleSettings(members=(Member(model=padim),)), CrossfitSettings(model=padim)):
        again = parse_model(json.loads(settings.model_dump_json()), "test")
        assert again == settings
        assert again.own_backbone == OWN


@pytest.mark.parametrize(
    ("layout", "message"), [("pooled", "one row and one column"), ("channels_last", "Only tokens have a prefix")]
)
def test_an_output_that_no_layout_has_is_refused(layout: str, message: str) -> None:
    values = OWN.outputs[0].model_dump() | {"layout": layout}
    with pytest.raises(ValidationError, match=message):
        BackboneOutput.model_validate(values)


@pytest.mark.parametrize("change", [{"sha256": "no"}, {"outputs": []}, {"height": 0}, {"other": 1}])
def test_a_damaged_description_is_refused(change: dict[str, Any]) -> None:
    values = json.loads(PadimSettings(backbone=OWN).model_dump_json())
    values["backbone"] |= change
    with pytest.raises(SettingsError, match="backbone"):
        parse_model(values, "test")


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("channels_first", (8, 4, 6)),
        ("channels_last", (4, 6, 8)),
        ("tokens", (25, 8)),
        ("pooled", (8,)),
    ],
)
def test_each_layout_has_its_shape(layout: Any, shape: tuple[int, ...]) -> None:
    output = OWN.outputs[0].model_copy(update={"layout": layout})
    assert output.shape == shape
    assert ("places" in output.describe()) == (layout != "pooled")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "tokens"])
def test_a_grid_of_one_place_is_pooled(layout: Any) -> None:
    output = BackboneOutput(name="y", layout=layout, channels=8)
    assert output.is_pooled
    assert "places" not in output.describe()


def test_another_backbone_reaches_every_part_that_has_one() -> None:
    plan = EnsembleSettings(members=(Member(model=FeaturesSettings()), Member(model=DictionarySettings())))
    assert with_backbone(plan, "own.onnx", "test").backbones == {"own.onnx"}
    assert with_backbone(CrossfitSettings(model=PadimSettings()), "own.onnx", "test").backbones == {"own.onnx"}
    assert with_backbone(AutoSettings(), "own.onnx", "test").backbones == {"own.onnx"}
    with pytest.raises(SettingsError, match=r"test: .* has no backbone; choose auto, padim, patchcore or features"):
        with_backbone(DictionarySettings(), "own.onnx", "test")
    for settings in (AutoSettings(pretrained=False), AutoSettings(robust=True)):
        with pytest.raises(SettingsError, match=r"test: .* robust=True or pretrained=False: they exclude each other"):
            with_backbone(settings, "own.onnx", "test")


@pytest.mark.parametrize("old", ["efficientnet-lite0", "other.onnx", OWN])
def test_depths_of_another_backbone_are_dropped_and_all_else_stays(old: Any) -> None:
    padim = PadimSettings(backbone=old, depths=(0,), map_depths=(0, 3), fine_depths=(2,), side=64, light="fixed")
    plan = EnsembleSettings(members=(Member(model=padim, weight=2),))
    (member,) = with_backbone(plan, "own.onnx", "test").planned_members
    assert member.weight == 2
    assert member.model == PadimSettings(backbone="own.onnx", side=64, light="fixed")
    assert not {"depths", "map_depths"} & member.model.model_fields_set


def test_the_same_backbone_by_the_name_of_a_file_has_the_same_depths() -> None:
    own, other = PadimSettings(backbone=OWN, depths=(0,)), PadimSettings(depths=(3,))
    plan = with_file_of_own(EnsembleSettings(members=(Member(model=own), Member(model=other))), "own.onnx")
    assert [member.model for member in plan.planned_members] == [
        PadimSettings(backbone="own.onnx", depths=(0,)),
        other,
    ]
    named = PadimSettings(backbone="own.onnx", depths=(0,))
    assert with_backbone(named, "own.onnx", "test") == named
