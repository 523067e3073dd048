"""The manifest: strict, and read as it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oddlens.config.base import InputSpec, RuntimeSettings, Settings, Tiling
from oddlens.config.detectors import (
    AnyModel,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    Member,
    RotationSettings,
)
from oddlens.config.manifest import SCHEMA_VERSION, DataSummary, Manifest
from oddlens.config.parse import parse
from oddlens.errors import SettingsError

DICTIONARY = DictionarySettings(patch_sizes=(4, 6))
PLAN = EnsembleSettings(members=(Member(model=DICTIONARY), Member(model=RotationSettings())))
FOLDS = CrossfitSettings(model=DICTIONARY)
VALUES: dict[str, Any] = {
    "model": {"family": "dictionary"},
    "training": {},
    "input": {"height": 8, "width": 8, "channels": 1},
    "decision": {},
    "data": {"source": "digits", "normal": "all", "n_training": 10, "fingerprint": "00"},
    "history": {},
    "versions": {},
    "created": "2026-01-01",
    "golden": [0.5],
}


def test_a_manifest_survives_json() -> None:
    manifest = parse(Manifest, VALUES, "test")
    assert manifest.schema_version == SCHEMA_VERSION
    assert manifest.model == DictionarySettings()
    assert parse(Manifest, json.loads(manifest.model_dump_json()), "test") == manifest


def test_an_older_manifest_has_the_defaults_of_settings_that_were_added_later() -> None:
    manifest = parse(Manifest, VALUES, "test")
    assert manifest.runtime == RuntimeSettings()
    assert manifest.data == DataSummary(source="digits", normal="all", n_training=10, fingerprint="00")
    assert (manifest.data.folds, manifest.data.groups, manifest.remarks) == (1, (), ())
    assert (manifest.tiling, manifest.model_input) == (None, manifest.input)


def test_the_input_of_a_tiled_model_is_a_tile() -> None:
    tiling = {"height": 32, "width": 64, "overlap": 16}
    manifest = parse(Manifest, VALUES | {"input": {"height": 32, "width": 9000, "channels": 3}, "tiling": tiling}, "x")
    assert manifest.tiling == Tiling(height=32, width=64, overlap=16)
    assert manifest.model_input == InputSpec(height=32, width=64, channels=3)
    assert parse(Manifest, json.loads(manifest.model_dump_json()), "test") == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "'schema_version'"),
        ({"input": {"height": 8, "width": 4097, "channels": 1}}, "without tiling, at most 4096 pixels a side"),
        ({"tiling": {"height": 8, "width": 16, "overlap": 0}}, "do not fit into images of 8 x 8"),
        ({"tiling": {"height": 8, "width": 8, "overlap": -1}}, r"'tiling\.overlap'"),
        ({"golden": []}, "'golden'"),
        ({"golden": [float("nan")]}, r"'golden\.0'"),
        ({"model": {"family": "auto"}}, "is not a detector"),
        ({"surprise": 1}, "'surprise' is not a setting"),
        ({"data": {**VALUES["data"], "n_training": 0}}, r"'data\.n_training'"),
    ],
)
def test_a_wrong_manifest_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse(Manifest, VALUES | change, "test")


@pytest.mark.parametrize("model", [DICTIONARY, RotationSettings(family="transforms"), PLAN, FOLDS])
def test_settings_of_any_family_survive_json_by_pydantic_too(model: FamilySettings) -> None:
    class Holder(Settings):
        model: AnyModel

    holder = Holder(model=model)
    again = Holder.model_validate_json(holder.model_dump_json())
    assert again == holder
    assert type(again.model) is type(model)
