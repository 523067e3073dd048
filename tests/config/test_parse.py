"""Settings are frozen, strict, and survive a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.config.parse import parse
from oddlens.config.recipe import DataSettings, Recipe, load_recipe
from oddlens.errors import SettingsError
from oddlens.recipes.run import find_recipe, recipe_names

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


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    assert find_recipe(name).name == name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings().epochs = 3  # type: ignore[misc]


def test_all_wrong_settings_are_reported_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(
        'name = "x"\n[data]\nsource = "mnist"\n[training]\nepoch = 3\nbatch_size = "many"\nlearning_rate = -1.0\n'
    )
    with pytest.raises(SettingsError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "wrong.toml" in message
    assert "'training.epoch' is not a setting (did you mean 'epochs'?)" in message
    assert "'training.batch_size'" in message
    assert "'training.learning_rate'" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["name = ", "\x00", "name = 'x'"])
def test_a_file_that_is_no_recipe_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"bad\.toml") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_and_an_unknown_name_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give the path of a recipe file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="built in are cifar10-airplane, demo, mnist"):
        find_recipe("minst")


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=float("nan"))


@pytest.mark.parametrize(("value_max", "dtype"), [(255, "uint8"), (4095, "uint16"), (65535, "uint16")])
def test_the_value_range_fixes_the_pixels_type(value_max: int, dtype: str) -> None:
    assert InputSpec(height=8, width=8, channels=1, value_max=value_max).dtype == dtype  # type: ignore[arg-type]
