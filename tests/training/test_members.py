"""Members: plans and folds are trained repeatably, each member in a folder of its own."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arrow_images import arrow_images, training_task
from simulated_machine import Machine, SlowSettings, grey_images, simulated_machine

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    CrossfitSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    PadimSettings,
    RotationSettings,
)
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.models.autoencoder import Autoencoder
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import Ensemble
from oddlens.training import members
from oddlens.training.history import TrainingRecord, TrainingStep, count_epochs
from oddlens.training.plan import load_plan
from oddlens.training.time_limit import TimeLimit

SMALL = AutoencoderSettings(widths=(4,), latent_dim=4)
TRAINING = TrainingSettings(epochs=100, epoch_images=64, batch_size=16, schedule="linear")  # epochs of four steps


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
    record = TrainingRecord("autoencoder", 2, 10, 1.0)
    none, short, long = (members.TrainedMember(Member(model=SMALL), model, rows[:count], record) for count in (0, 1, 2))
    assert members.longest_history([short, long]) == rows
    assert members.longest_history([none]) == []


def test_what_follows_training_is_estimated_from_a_small_batch_of_each_model() -> None:
    with simulated_machine(Machine(), TrainingSettings()):
        task = training_task(grey_images(100), to_score=50)  # 80 to train on, 20 for standardization
        slow, fast = (members.build_untrained(SlowSettings(image=image), 0, task) for image in (0.5, 0.25))
        fast.train()
        assert members.seconds_after_training([], [], task) == 0
        assert members.seconds_after_training([slow], [], task) == pytest.approx(0.5 * 70)
        assert members.seconds_after_training([slow], [fast], task) == pytest.approx(0.5 * 70 + 0.25 * (70 + 40))
        assert fast.training  # as it was
        assert members.time_limit([slow], [fast], task) is None


@pytest.mark.parametrize("moment", [0.0, 12.0, 45.0])
def test_a_budget_ends_in_time_though_the_machine_becomes_slow(moment: float) -> None:
    """Of a single detector; 45 s are in the middle of training, which a quiet machine ends after 54 s."""
    with simulated_machine(Machine(lambda now: 3.0 if now >= moment else 1.0), TRAINING) as machine:
        detector = Detector(SlowSettings(step=0.5), budget=60.0).fit(grey_images(200))
        assert 54 < machine.now <= 66
        (record,) = detector.records_
        assert record.planned_epochs == 100
        assert 0 < record.epochs < 25
        assert record.epochs == count_epochs(detector.history_)
        assert detector.history_[-1]["progress"] == 1.0
        assert len(detector.decision_.calibration_scores) == 60  # however little time there was


def test_all_is_trained_and_scored_where_the_budget_allows_it() -> None:
    with simulated_machine(Machine(), TRAINING) as machine:
        detector = Detector(SlowSettings(step=0.01), budget=60.0).fit(grey_images(200))
        assert machine.now < 20
        assert detector.records_[0].complete
        assert len(detector.tensors["training.scores"]) == 140


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 100), (250.0, 125), (319.0, 159), (321.0, None)])
def test_a_fit_in_closed_form_takes_as_many_images_as_the_time_allows(
    seconds: float, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "seconds_per_image", lambda model, task: 1.0)
    monkeypatch.setattr(members, "MIN_FITTING_IMAGES", 100)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    task = training_task(arrow_images(200))
    limit, member = TimeLimit(seconds, lambda: 0.0), Member(model=DictionarySettings(atoms=10))
    result = members.train_member(members.build_untrained(member.model, 0, task), member, task, None, limit)
    assert result.member.training.epoch_images == count
    assert result.record.epochs == (count or 160) / 160
    assert result.record.complete == (count is None)
    plan = EnsembleSettings(members=(result.member,))
    again = members.train_planned(plan, task).model.state_dict()
    for name, tensor in result.model.state_dict().items():
        np.testing.assert_array_equal(tensor, again[f"members.0.{name}"], err_msg=name)


@pytest.mark.parametrize(("light", "seconds", "count"), [("varies", 1000.0, 500 / 3), ("fixed", 1000.0, 500.0)])
def test_images_that_are_learned_in_copies_take_as_much_time_as_the_copies(
    light: str, seconds: float, count: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "seconds_per_image", lambda model, task: 1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    task = training_task(arrow_images(200))
    limit = TimeLimit(seconds, lambda: 0.0)
    model = members.build_untrained(PadimSettings.model_validate({"light": light}), 0, task)
    assert members.affordable_images(model, task, limit) == pytest.approx(count)


def test_a_family_with_a_backbone_has_all_the_time_that_its_scoring_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "seconds_per_image", lambda model, task: 0.1)
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    task = training_task(arrow_images(200), deadline=100.0)  # 160 to train on, 40 for standardization
    settings = (PadimSettings(), DictionarySettings(), RotationSettings())
    models = [members.build_untrained(each, 0, task) for each in settings]
    limits = [members.time_limit([], models[start:], task) for start in range(2)]
    assert [limit and limit.left() for limit in limits] == [pytest.approx(96.0), pytest.approx(48.0)]


def test_folds_share_a_budget_and_end_in_time_though_the_machine_becomes_slow() -> None:
    settings = CrossfitSettings(model=SlowSettings(step=0.25, closed_form=0.1), folds=4)
    with simulated_machine(Machine(lambda now: 3.0 if now >= 60 else 1.0), TRAINING) as machine:
        detector = Detector(settings, budget=120.0).fit(grey_images(200))
        assert 108 < machine.now <= 132
        assert len(detector.records_) == 4
        assert all(record.epochs > 1 for record in detector.records_)


def test_an_interrupted_training_with_a_budget_goes_on_and_ends_in_time(tmp_path: Path) -> None:
    class InterruptedError(Exception):
        pass

    def interrupt(step: TrainingStep) -> None:
        if step.epoch == 5:
            raise InterruptedError

    with simulated_machine(Machine(), TRAINING) as machine:
        detector = Detector(SlowSettings(step=0.5), budget=60.0)
        with pytest.raises(InterruptedError):
            detector.fit(grey_images(200), folder=tmp_path, progress=interrupt)
        before, machine.slowness = machine.now, lambda now: 2.0
        detector.fit(grey_images(200), folder=tmp_path, resume=True)
        assert 50 < machine.now - before <= 66
        assert [row["epoch"] for row in detector.history_][:6] == [1, 2, 3, 4, 5, 6]
        assert detector.history_[-1]["progress"] == 1.0


def test_the_region_of_interest_is_part_of_a_model_before_training() -> None:
    roi = np.tri(16, dtype=bool)
    model = members.build_untrained(SMALL, 0, training_task(arrow_images(10), roi=roi))
    np.testing.assert_array_equal(model.roi.numpy(), roi)
