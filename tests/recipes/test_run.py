"""Whole runs of recipes: overrides, test sets, calibration, output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddlens.config.detectors import RotationSettings
from oddlens.config.parse import parse
from oddlens.config.recipe import Recipe
from oddlens.data.open import open_dataset
from oddlens.errors import DataError, SettingsError
from oddlens.recipes import run
from oddlens.training.history import TrainingStep


def small_recipe(**data: object) -> Recipe:
    """A recipe of the built-in digits that runs in seconds."""
    values = {
        "name": "small",
        "data": {"source": "digits", **data},
        "model": {"family": "autoencoder", "architecture": "pooling", "widths": [4]},
        "training": {"epochs": 1},
    }
    return parse(Recipe, values, "test")


@pytest.mark.parametrize("name", run.recipe_names())
def test_each_built_in_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    assert run.find_recipe(name).name == name


def test_an_unknown_recipe_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(SettingsError, match="built in are cifar10-airplane, digits, mnist"):
        run.find_recipe("minst")


def test_the_command_line_overrides_a_recipe() -> None:
    recipe = run.override(run.find_recipe("mnist"), epochs=3, seed=7, detector="autoencoder")
    assert (recipe.training.epochs, recipe.training.seed) == (3, 7)
    assert recipe.model == run.find_recipe("mnist").model, "the settings of the same family stay"
    auto = run.override(run.find_recipe("mnist"), epochs=None, seed=5, detector="auto")
    assert (auto.model.family, auto.training.model_fields_set, auto.training.seed) == ("auto", {"seed"}, 5)
    assert auto.decision.method == "conformal"
    rotation = run.override(run.find_recipe("mnist"), epochs=None, seed=5, detector="transforms")
    assert run.override(rotation, epochs=None, seed=None, detector="rotation").model == rotation.model
    with pytest.raises(SettingsError, match="'nonsense' is not a detector"):
        run.override(run.find_recipe("mnist"), epochs=None, seed=None, detector="nonsense")


@pytest.mark.parametrize("name", ["rotation", "transforms"])
def test_another_family_has_its_default_training_and_decides_by_conformal(name: str) -> None:
    recipe = run.override(run.find_recipe("mnist"), epochs=3, seed=None, detector=name)
    assert recipe.model == RotationSettings.model_validate({"family": name})
    assert recipe.training.model_fields_set == {"seed", "epochs"}
    assert recipe.decision.method == "conformal"


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The result of a run whose foreign images are nowhere and that has a mask it cannot use, and its notes."""
    notes: list[str] = []
    folder = tmp_path_factory.mktemp("split")
    data = replace(open_dataset("digits"), unused_masks={"a reason": ("x.png",)})
    recipe = small_recipe(distort=True, foreign="cifar10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODDLENS_MIRROR", "http://127.0.0.1:9")
        patch.setenv("KERAS_HOME", str(folder))
        return run.RecipeRun(recipe, folder, folder, log=notes.append).run(data, resume=False), notes


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a run that half of the normal test images calibrate."""
    return run.RecipeRun(small_recipe(distort=True, calibration="test_half"), tmp_path_factory.mktemp("halves"))()


def test_one_class_is_tested_against_the_others_and_all_classes_against_distortions(
    split: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    threes = run.RecipeRun(small_recipe(normal="3"), tmp_path / "threes")()
    assert set(threes["per_class"]) == set("0123456789")
    assert threes["per_class"]["3"]["auroc"] is None
    assert {"normal", "noise", "blank", "glyphs"} <= set(split[0]["per_class"])


def test_a_recipe_without_test_images_is_refused_before_training(tmp_path: Path) -> None:
    np.save(tmp_path / "parts.npy", np.zeros((60, 8, 8), np.uint8))
    recipe = small_recipe(source=str(tmp_path / "parts.npy"))
    with pytest.raises(DataError, match="test set has no images"):
        run.RecipeRun(recipe, tmp_path / "out")()
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_normal_test_images_alone_has_their_rate(tmp_path: Path) -> None:
    digits = open_dataset("digits")
    for part, images in (("train", digits.train), ("test", digits.test)):
        (tmp_path / "lot" / part / "good").mkdir(parents=True)
        for i in range(200):
            Image.fromarray(images.image(i)[..., 0]).save(tmp_path / "lot" / part / "good" / f"{i:03}.png")
    result = run.RecipeRun(small_recipe(source=str(tmp_path / "lot")), tmp_path / "out")()
    assert 0 <= result["false_alarm_rate_measured"] < 0.2
    assert (result["image_auroc"], result["detection_rate"]) == (None, None)
    assert (result["lot"]["n"], result["lot"]["shifted"]) == (200, False)
    assert "roc" not in result["files"]["figures"]
    assert "no detection rate, AUROC or average precision" in (tmp_path / "out/report.html").read_text()


def test_each_step_is_timed_for_both_ways_to_calibrate(
    split: tuple[dict[str, Any], list[str]], halves: dict[str, Any]
) -> None:
    for result in (split[0], halves):
        assert set(result["seconds"]) == {"fit", "calibrate", "score"}


def test_a_foreign_set_that_is_not_here_is_left_out_and_not_downloaded(split: tuple[dict[str, Any], list[str]]) -> None:
    result, notes = split
    assert "foreign" not in result["per_class"]
    assert notes[0].startswith("left out the images of cifar10")
    assert "127.0.0.1" not in notes[0]


def test_foreign_images_are_a_sample_of_another_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MAX_FOREIGN_IMAGES", 5)
    foreign = run.RecipeRun(small_recipe(foreign="digits"), Path()).load_foreign()
    assert foreign is not None
    assert foreign.shape == (5, 8, 8, 1)
    assert run.RecipeRun(small_recipe(), Path()).load_foreign() is None


def test_masks_that_are_not_used_are_logged_and_in_the_metrics(split: tuple[dict[str, Any], list[str]]) -> None:
    result, notes = split
    assert "masks not used, as a reason: x.png" in notes
    assert result["masks"]["unused"] == {"a reason": ["x.png"]}


def test_progress_is_reported_to_the_caller_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[TrainingStep] = []
    recipe_run = run.RecipeRun(small_recipe(distort=True), tmp_path, progress=steps.append)
    recipe_run.fit(open_dataset("digits"), resume=False)
    assert (steps[-1].epoch, steps[-1].step) == (1, steps[-1].steps)
    assert recipe_run.files["detector"] == str(tmp_path / "detector.safetensors")
    assert capfd.readouterr() == ("", "")


def test_half_of_the_test_normals_calibrate_and_the_other_half_is_measured(halves: dict[str, Any]) -> None:
    assert halves["n_normal_rates"] == pytest.approx(halves["n_normal"] / 2, abs=5)
    assert np.isfinite(halves["image_auroc"])
