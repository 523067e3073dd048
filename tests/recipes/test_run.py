"""Whole runs: what a recipe asks for is what happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oddlens.config.parse import parse
from oddlens.config.recipe import Recipe
from oddlens.errors import SettingsError
from oddlens.recipes import run


def small(**data: object) -> Recipe:
    values = {
        "name": "small",
        "data": {"source": "digits", **data},
        "model": {"family": "autoencoder", "architecture": "pooling", "widths": [4]},
        "training": {"epochs": 1},
    }
    return parse(Recipe, values, "test")


def test_the_command_line_overrides_a_recipe() -> None:
    recipe = run.override(run.find_recipe("mnist"), epochs=3, seed=7, detector="autoencoder")
    assert (recipe.training.epochs, recipe.training.seed) == (3, 7)
    assert recipe.model == run.find_recipe("mnist").model, "the recipe's own settings of the same family stay"
    auto = run.override(run.find_recipe("mnist"), epochs=None, seed=5, detector="auto")
    assert (auto.model.family, auto.training.model_fields_set, auto.training.seed) == ("auto", {"seed"}, 5)
    assert auto.decision.method == "conformal"
    with pytest.raises(SettingsError, match="'nonsense' is not a detector"):
        run.override(run.find_recipe("mnist"), epochs=None, seed=None, detector="nonsense")


def test_one_class_is_tested_against_the_others_and_all_classes_against_distortions(tmp_path: Path) -> None:
    one = run.RecipeRun(small(normal="3"), tmp_path / "one")()
    assert set(one["per_class"]) == set("0123456789")
    assert one["per_class"]["3"]["auroc"] is None
    every = run.RecipeRun(small(distort=True), tmp_path / "every")()
    assert {"normal", "noise", "blank", "glyphs"} <= set(every["per_class"])


def test_every_step_is_timed_whichever_images_calibrate(tmp_path: Path) -> None:
    for calibration in ("split", "test_half"):
        result = run.RecipeRun(small(distort=True, calibration=calibration), tmp_path / calibration)()
        assert set(result["seconds"]) == {"fit", "calibrate", "score"}


def test_a_foreign_set_that_is_not_here_is_left_out_and_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODDLENS_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    said: list[str] = []
    result = run.RecipeRun(small(distort=True, foreign="cifar10"), tmp_path / "out", tmp_path, say=said.append)()
    assert "foreign" not in result["per_class"]
    assert said[0].startswith("left out the pictures of cifar10")
    assert "127.0.0.1" not in said[0]


def test_half_of_the_test_normals_calibrate_and_the_other_half_is_measured(tmp_path: Path) -> None:
    result = run.RecipeRun(small(distort=True, calibration="test_half"), tmp_path)()
    assert result["n_normal_rates"] == pytest.approx(result["n_normal"] / 2, abs=5)
    assert np.isfinite(result["image_auroc"])
