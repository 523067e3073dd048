"""Members: plans and folds are trained repeatably, each member in a folder of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arrow_images import arrow_images, training_task

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    RotationSettings,
)
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import Ensemble
from oddlens.training import members
from oddlens.training.plan import load_plan

SMALL = AutoencoderSettings(widths=(4,), latent_dim=4)


@pytest.fixture(scope="module")
def plan() -> EnsembleSettings:
    """Two members, one of them trained at an uneven pace."""
    rotation = TrainingSettings(batch_size=32, optimizer="muon", schedule="linear", pace=(0.1, 0.5, 0.7, 1.0), seed=4)
    return EnsembleSettings(
        members=(
            Member(model=DictionarySettings(atoms=10), training=TrainingSettings(seed=4)),
            Member(model=RotationSettings(side=16, widths=(8, 8, 16), bank=50), training=rotation, weight=0.5),
        )
    )


def test_a_plan_gives_the_same_detector_again(plan: EnsembleSettings, tmp_path: Path) -> None:
    first = Detector(plan).fit(arrow_images(150))
    assert first.manifest.training.seed == 4
    again = Detector(load_plan(first.save(tmp_path / "part.safetensors"))).fit(arrow_images(150))
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)


def test_each_member_of_a_plan_trains_in_a_folder_of_its_own(tmp_path: Path) -> None:
    member = Member(model=SMALL, training=TrainingSettings(epochs=1))
    plan = EnsembleSettings(members=(member, member))
    result = members.train_planned(plan, training_task(arrow_images(60), folder=tmp_path))
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["0-autoencoder", "1-autoencoder"]
    assert isinstance(result.model, Ensemble)
    assert result.settings is plan
    assert [row["epoch"] for row in result.history] == [1]


def test_a_single_detector_trains_in_the_folder_itself(tmp_path: Path) -> None:
    task = training_task(arrow_images(60), folder=tmp_path, training=TrainingSettings(epochs=1))
    result = members.train_single(SMALL, task)
    assert isinstance(result.model, Autoencoder)
    assert result.remarks == ()  # an autoencoder has none
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "history.jsonl"]


def test_the_remark_of_a_single_detector_is_about_the_calibration_images() -> None:
    settings = RotationSettings(side=16, widths=(8, 8, 16), bank=20)
    task = training_task(arrow_images(60), training=TrainingSettings(epochs=1))
    result = members.train_single(settings, replace(task, calibration=task.standardization))
    assert "%" in result.remarks[0]
    assert members.train_single(settings, replace(task, calibration=task.standardization[:0])).remarks == ()
    assert members.train_single(settings, task).remarks == ()


def test_each_image_is_scored_by_the_model_of_the_fold_that_left_it_out() -> None:
    task = training_task(arrow_images(60))
    settings = CrossfitSettings(model=DictionarySettings(atoms=10), folds=3)
    result = members.train_folds(settings, task)
    assert isinstance(result.model, CrossConformal)
    assert result.peaks is not None
    assert result.peaks.shape == (len(task.train),)
    assert (result.peaks > 0).all()


def test_near_duplicates_cannot_be_divided_into_folds() -> None:
    pixels = arrow_images(60)
    pixels[:] = pixels[:1]
    task = training_task(pixels)
    settings = CrossfitSettings(model=DictionarySettings(atoms=10), folds=3)
    with pytest.raises(DataError, match="48 images with their near-duplicates cannot be split into 3 folds; use fewer"):
        members.train_folds(settings, task)


def test_a_composite_of_another_class_than_registered_is_an_error() -> None:
    settings = EnsembleSettings(members=(Member(model=SMALL),))
    with pytest.raises(TypeError, match="the family ensemble is registered for"):
        members.build_composite(CrossConformal, settings, training_task(arrow_images(10)))


def test_the_longest_history_is_that_of_most_epochs() -> None:
    task = training_task(arrow_images(30))
    model = members.build_untrained(SMALL, 0, task)
    rows = [{"epoch": 1.0, "loss": 1.0}, {"epoch": 2.0, "loss": 0.5}]
    short, long = (members.TrainedMember(Member(model=SMALL), model, rows[:count]) for count in (1, 2))
    assert members.longest_history([short, long]) == rows
    assert members.longest_history([members.TrainedMember(Member(model=SMALL), model, [])]) == []


def test_the_estimate_of_scoring_time_grows_with_the_models_and_needs_none_without() -> None:
    task = training_task(arrow_images(60), to_score=10)
    model = members.build_untrained(SMALL, 0, task)
    assert members.scoring_seconds([], task) == 0
    assert 0 < members.scoring_seconds([model], task) < math.inf


def test_the_region_of_interest_is_part_of_a_model_before_training() -> None:
    roi = np.tri(16, dtype=bool)
    model = members.build_untrained(SMALL, 0, training_task(arrow_images(10), roi=roi))
    np.testing.assert_array_equal(model.roi.numpy(), roi)
