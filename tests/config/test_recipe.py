"""Recipes: valid TOML files, and settings that survive a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, AutoSettings
from oddlens.config.parse import parse
from oddlens.config.recipe import DataSettings, Recipe, load_recipe
from oddlens.errors import SettingsError

recipes = st.builds(
    Recipe,
    name=st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    title=st.text(max_size=20),
    data=st.builds(
        DataSettings, source=st.text(max_size=20), normal=st.none() | st.text(max_size=9), distort=st.booleans()
    ),
    model=st.builds(
        AutoencoderSettings,
        architecture=st.sampled_from(["pooling", "strided"]),
        widths=st.lists(st.integers(1, 1024), min_size=1, max_size=6).map(tuple),
        latent_dim=st.integers(1, 4096),
        loss=st.sampled_from(["bce", "mse", "l1", "ssim"]),
        top_percent=st.floats(0.01, 100),
        noise=st.floats(0, 1),
    ),
    training=st.builds(TrainingSettings, epochs=st.integers(1, 1000), learning_rate=st.floats(1e-6, 10)),
    decision=st.builds(DecisionSettings, false_alarm_rate=st.none() | st.floats(1e-6, 0.999)),
)


@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert parse(Recipe, recipe.model_dump(mode="json"), "test") == recipe


def test_all_wrong_settings_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(
        'name = "x"\n[data]\nsource = "mnist"\n[training]\nepoch = 3\nbatch_size = "many"\nlearning_rate = -1.0\n'
    )
    with pytest.raises(SettingsError) as raised:
        load_recipe(path)
    message = str(raised.value)
    assert "wrong.toml" in message
    assert "'training.epoch' is not a setting (did you mean 'epochs'?)" in message
    assert "'training.batch_size'" in message
    assert "'training.learning_rate'" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["name = ", "\x00", "name = 'x'"])
def test_a_file_that_is_not_a_recipe_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"bad\.toml") as raised:
        load_recipe(path)
    assert "\n" not in str(raised.value)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give the path of a recipe file"):
        load_recipe(tmp_path / "none.toml")


def test_the_model_of_a_recipe_can_be_auto() -> None:
    values = {"name": "x", "data": {"source": "digits"}, "model": {"family": "auto", "robust": True}}
    assert parse(Recipe, values, "test").model == AutoSettings(robust=True)
