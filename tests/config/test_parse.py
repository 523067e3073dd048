"""Plain values become settings, or one error that lists everything wrong with them."""

from __future__ import annotations

import pytest

from oddlens.config.base import TrainingSettings, lists_to_tuples
from oddlens.config.detectors import AutoencoderSettings, AutoSettings, CrossfitSettings, DictionarySettings
from oddlens.config.parse import duration, parse, parse_model, with_light
from oddlens.config.recipe import Recipe
from oddlens.errors import SettingsError


def test_lists_become_tuples_at_any_depth() -> None:
    assert lists_to_tuples({"a": [1, [2]], "b": {"c": ["x"]}}) == {"a": (1, (2,)), "b": {"c": ("x",)}}
    assert lists_to_tuples("text") == "text"


def test_all_wrong_settings_are_reported_at_once_with_the_nearest_name() -> None:
    training = {"epoch": 3, "batch_size": "many", "learning_rate": -1.0}
    with pytest.raises(SettingsError) as raised:
        parse(Recipe, {"name": "x", "data": {"source": "mnist"}, "training": training}, "wrong.toml")
    message = str(raised.value)
    assert message.startswith("wrong.toml: ")
    assert "'training.epoch' is not a setting (did you mean 'epochs'?)" in message
    assert "'training.batch_size'" in message
    assert "'training.learning_rate'" in message
    assert "\n" not in message


def test_a_setting_without_a_near_name_is_refused_with_all_names() -> None:
    with pytest.raises(SettingsError, match=r"'xyzzy' is not a setting \(there are: epochs, epoch_images, "):
        parse(TrainingSettings, {"xyzzy": 1}, "test")


def test_a_wrong_setting_of_auto_in_a_recipe_is_reported_with_those_of_auto() -> None:
    values = {"name": "x", "data": {"source": "mnist"}, "model": {"family": "auto", "robus": True}}
    with pytest.raises(SettingsError, match=r"'model\.robus' is not a setting \(did you mean 'robust'\?\)"):
        parse(Recipe, values, "test")


def test_the_names_of_a_setting_are_those_of_its_family() -> None:
    with pytest.raises(SettingsError, match=r"'model\.atom' is not a setting \(did you mean 'atoms'\?\)"):
        parse_model({"family": "crossfit", "model": {"family": "dictionary", "atom": 3}}, "test")


def test_plain_values_are_parsed_as_the_settings_of_their_family() -> None:
    assert parse_model({"family": "autoencoder", "widths": [4, 8]}, "test") == AutoencoderSettings(widths=(4, 8))
    values = {"family": "crossfit", "model": {"family": "dictionary", "atoms": 10}, "folds": 3}
    assert parse_model(values, "test") == CrossfitSettings(model=DictionarySettings(atoms=10), folds=3)


@pytest.mark.parametrize("text", ["5 minutes", "0s", "-1", "m", "", "1e3", "5m30s", "nan", "inf", "9" * 400])
def test_a_text_that_is_not_a_duration_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is not a duration; write it as 90s, 5m, 1h or plain seconds"):
        duration(text)


def test_light_is_a_setting_of_the_detectors_that_ask_for_it() -> None:
    assert with_light(AutoSettings(), "fixed", "--light").model_dump()["light"] == "fixed"
    with pytest.raises(SettingsError, match="for the detectors auto, dictionary, padim and patchcore, not for the"):
        with_light(AutoencoderSettings(), "fixed", "--light")
    with pytest.raises(SettingsError, match="light must be one of varies, fixed, got 'dim'"):
        with_light(AutoSettings(), "dim", "light")
