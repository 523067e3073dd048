"""auto: selects and weights an ensemble from normal images alone, within a budget; its plan repeats it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from arrow_images import arrow_images, training_task
from pretrained_extra import needs_pretrained
from simulated_machine import Machine, SlowSettings, grey_images, simulated_machine

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import (
    AutoSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    Member,
    PadimSettings,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.models import registry
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.base import Model
from oddlens.training import auto, loop
from oddlens.training.history import TrainingRecord
from oddlens.training.members import TrainedMember, TrainingTask

FROM_SCRATCH = AutoSettings(pretrained=False)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector selected by `auto`, with time for all of a few epochs, so that the clock decides nothing."""
    settings_class: type[FamilySettings] = RotationSettings
    family = registry.family_of(RotationSettings())
    brief = family._replace(default_training=family.default_training.model_copy(update={"epochs": 10}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._REGISTRY, settings_class, brief)
        return Detector(FROM_SCRATCH, budget=600.0).fit(arrow_images(210))


def test_auto_reports_what_it_selected_and_why(detector: Detector) -> None:
    plan = detector.manifest.model
    assert isinstance(plan, EnsembleSettings)
    assert [member.model.family for member in plan.members] == ["dictionary", "rotation"]
    assert len(plan.members[1].training.pace) > 1
    remarks = " ".join(detector.manifest.remarks)
    assert "dictionary:" in remarks
    assert "accuracy" in remarks
    assert "do not count as normal" in remarks  # an arrow is not its mirror image


def test_auto_detects_rotated_arrows(detector: Detector) -> None:
    rotated = np.ascontiguousarray(np.rot90(arrow_images(40, seed=1), 2, axes=(1, 2)))
    normal, anomalous = detector.score(arrow_images(40, seed=2)), detector.score(rotated)
    assert np.median(anomalous) > normal.max()


def test_the_plan_of_auto_gives_the_same_detector_again(detector: Detector) -> None:
    assert isinstance(detector.manifest.model, EnsembleSettings)
    again = Detector(detector.manifest.model).fit(arrow_images(210))
    for name, tensor in detector.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)


def test_training_standardization_and_calibration_use_disjoint_images(detector: Detector) -> None:
    data = detector.manifest.data
    assert min(data.n_training, data.n_standardising, data.n_calibration) > 0
    assert data.n_training + data.n_standardising + data.n_calibration == 210
    used = np.concatenate([detector.fingerprints("training"), detector.fingerprints("calibration")])
    assert len(np.unique(used)) == 210
    with pytest.raises(DataError, match="not trained on"):  # also the standardization images
        detector.calibrate(arrow_images(210))


def test_too_few_images_to_weight_members_give_a_single_one() -> None:
    manifest = Detector(FROM_SCRATCH).fit(arrow_images(30)).manifest
    assert isinstance(manifest.model, EnsembleSettings)
    assert [member.model.family for member in manifest.model.members] == ["dictionary"]
    assert "too few to weight several" in " ".join(manifest.remarks)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_handful_of_images_is_enough_to_begin(count: int) -> None:
    scores = Detector(FROM_SCRATCH).fit(arrow_images(count)).score(arrow_images(5, seed=1))
    assert np.isfinite(scores).all()


def test_mirrored_images_count_as_normal_if_the_images_are_symmetric() -> None:
    images = arrow_images(200)
    assert auto.mirrored_distance(images, 0) > auto.MAX_MIRROR_RATIO
    symmetric = np.concatenate([images, images[:, :, ::-1]])
    assert auto.mirrored_distance(symmetric, 0) < auto.MAX_MIRROR_RATIO


def test_large_images_are_searched_for_defects() -> None:
    images = np.zeros((200, 96, 96, 1), dtype=np.uint8)
    titles = [settings.title for settings in auto.select_candidates(FROM_SCRATCH, training_task(images))[0]]
    assert titles == ["dictionary", "defects at 1/2 of the size", "defects"]


def test_robust_compares_with_more_neighbours_and_trusts_the_network_more() -> None:
    images = arrow_images(250)
    plain, robust = (
        auto.select_candidates(AutoSettings(robust=value, pretrained=False), training_task(images))[0][1]
        for value in (False, True)
    )
    assert isinstance(plain, RotationSettings)
    assert isinstance(robust, RotationSettings)
    assert (robust.neighbours, robust.surprise) == (8, auto.ROBUST_SURPRISE)
    assert robust.neighbours > plain.neighbours
    assert robust.surprise > plain.surprise


@pytest.fixture
def slow_members(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A simulated machine on which `auto` tries a dictionary, which takes no time, and two slow members."""
    training = TrainingSettings(epochs=100, epoch_images=64, batch_size=16, schedule="linear")
    with simulated_machine(Machine(), training) as machine:
        slow = [SlowSettings(name=name, step=0.5) for name in ("first", "second")]
        monkeypatch.setattr(
            auto, "select_candidates", lambda settings, task: ([DictionarySettings(atoms=10), *slow], [])
        )
        yield machine


@pytest.mark.parametrize("moment", [np.inf, 0.0, 60.0, 80.0, 106.0])
def test_the_budget_is_used_and_ends_in_time_though_the_machine_becomes_three_times_slower(
    moment: float, slow_members: Machine
) -> None:
    """From the start, in the middle of the first or the second member, or when all are about to be scored."""
    slow_members.slowness = lambda now: 3.0 if now >= moment else 1.0
    detector = Detector(FROM_SCRATCH, budget=120.0).fit(grey_images(200))
    assert 108 < slow_members.now <= 132
    _, first, second = detector.records_
    assert (first.title, second.title) == ("first", "second")
    assert not first.complete
    assert not second.complete
    quiet = 24.0  # epochs of each member on a quiet machine
    expected = {np.inf: (1, 1), 0.0: (1 / 4, 1 / 4), 60.0: (1, 1 / 4), 80.0: (1, 1 / 2), 106.0: (1, 1)}[moment]
    assert (first.epochs / quiet, second.epochs / quiet) == pytest.approx(expected, abs=0.2)


def test_a_plan_repeats_a_training_that_was_cut_short(slow_members: Machine) -> None:
    slow_members.slowness = lambda now: 10.0 if now >= 80.3 else 1.0  # in the middle of an epoch
    detector = Detector(FROM_SCRATCH, budget=120.0).fit(grey_images(200))
    plan = detector.manifest.model
    assert isinstance(plan, EnsembleSettings)
    assert all(min(member.training.pace_shares, default=1.0) < 1 for member in plan.members[1:])
    again = Detector(plan).fit(grey_images(200))
    assert slow_members.now > 200  # however long it takes
    for name in ("model.members.1.level", "model.members.2.level", "calibration.scores"):
        np.testing.assert_array_equal(detector.tensors[name], again.tensors[name], err_msg=name)
    assert all(record.complete for record in again.records_)


def test_a_member_that_has_time_for_a_few_steps_only_is_left_out(slow_members: Machine) -> None:
    slow_members.slowness = lambda now: 10.0
    detector = Detector(FROM_SCRATCH, budget=60.0).fit(grey_images(200))
    assert slow_members.now <= 66
    assert [record.epochs for record in detector.records_[1:]] == [0.0, 0.0]
    assert "second: left out, because the budget leaves no time for it" in detector.manifest.remarks


def test_the_weight_follows_from_the_accuracy_on_rotations() -> None:
    training = TrainingSettings(epochs=8, batch_size=32, optimizer="muon", schedule="linear")
    weights = {}
    noise = np.random.default_rng(0).integers(0, 255, (200, 16, 16, 1), dtype=np.uint8)
    for name, images in (("noise", noise), ("arrows", arrow_images(200))):
        task = training_task(images)
        model = registry.build(RotationSettings(side=16, widths=(8, 8, 16), mirror=False), task.spec, 0)
        loop.train(model, task.train, training, task.device)
        weights[name], reason = auto.member_weight(model, task)
        assert "accuracy" in reason
    assert weights["noise"] < auto.MIN_MEMBER_WEIGHT
    assert weights["arrows"] > 1


def test_a_region_of_interest_that_reveals_the_rotation_excludes_the_rotation_family() -> None:
    roi = np.zeros((16, 16), dtype=bool)
    roi[:, :10] = True
    task = training_task(arrow_images(200), roi=roi)
    candidates, reasons = auto.select_candidates(FROM_SCRATCH, task)
    assert [settings.family for settings in candidates] == ["dictionary"]
    assert "region of interest" in reasons[-1]
    model = registry.build(RotationSettings(side=16, widths=(8, 8, 16)), task.spec, 0)
    model.set_roi(roi)
    assert "region of interest" in str(model.remark(torch.from_numpy(task.train)))


@pytest.mark.parametrize(
    ("noise", "is_map_only"), [(0.5, False), (30.0, True)], ids=["a member that helps", "a member that does not"]
)
def test_a_member_counts_for_the_map_alone_where_the_sum_is_better_without_its_score(
    noise: float, is_map_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both members see which images have defects, beside noise of their own."""
    task = training_task(arrow_images(200))
    rng = np.random.default_rng(0)

    def score_pixels(model: Model, pixels: Pixels, task: TrainingTask) -> npt.NDArray[np.float64]:
        normal = np.resize(task.standardization, pixels.shape)
        level = noise if model.settings.family == "dictionary" else 1.0
        has_defect: npt.NDArray[np.bool_] = (pixels != normal).any(axis=(1, 2, 3))
        scores: npt.NDArray[np.float64] = has_defect + rng.normal(0, level, len(pixels))
        return scores

    monkeypatch.setattr(auto, "score_pixels", score_pixels)
    members = [
        TrainedMember(
            Member(model=settings, weight=weight),
            registry.build(settings, task.spec, 0),
            [],
            TrainingRecord(settings.title, 1.0, 1, 0.0),
        )
        for settings, weight in ((DictionarySettings(), 1.0), (PadimSettings(), 0.5))
    ]
    chosen, reasons = auto.choose_scoring(members, task)
    assert [(member.member.model.family, member.member.map_only) for member in chosen] == [
        ("dictionary", is_map_only),
        ("padim", False),
    ]
    assert bool(reasons) == is_map_only


def test_without_time_gradient_members_are_left_out() -> None:
    model = auto.train_auto(FROM_SCRATCH, training_task(arrow_images(200), deadline=time.perf_counter() + 1.0))
    assert isinstance(model.settings, EnsembleSettings)
    assert [member.model.family for member in model.settings.members] == ["dictionary"]
    assert "rotation: left out, because the budget leaves no time for it" in model.remarks


@needs_pretrained
@pytest.mark.parametrize(
    ("side", "channels", "families"),
    [
        (96, 1, ["padim", "dictionary"]),
        (32, 1, ["features", "dictionary", "rotation"]),
        (32, 3, ["features", "rotation"]),
    ],
    ids=["large", "small and grey", "small and in colour"],
)
def test_a_backbone_that_is_installed_comes_first(side: int, channels: int, families: list[str]) -> None:
    candidates, reasons = auto.select_candidates(
        AutoSettings(), training_task(np.zeros((200, side, side, channels), dtype=np.uint8))
    )
    assert [candidate.family for candidate in candidates] == families
    assert "pretrained: features of efficientnet-lite0, trained on ImageNet" in reasons


@needs_pretrained
def test_beside_a_backbone_for_photographs_rotation_scores_an_image_as_it_is_and_trains_half_as_long() -> None:
    colour, grey = (
        auto.select_candidates(AutoSettings(), training_task(np.zeros((200, 32, 32, channels), dtype=np.uint8)))[0][-1]
        for channels in (3, 1)
    )
    assert isinstance(colour, RotationSettings)
    assert isinstance(grey, RotationSettings)
    assert (colour.scored_rotations, grey.scored_rotations) == (1, 4)
    assert auto.member_training(colour).epochs == auto.member_training(grey).epochs / 2


def test_without_the_backbone_a_line_says_what_it_would_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "is_installed", lambda: False)
    task = training_task(np.zeros((200, 96, 96, 1), dtype=np.uint8))
    candidates, reasons = auto.select_candidates(AutoSettings(), task)
    assert candidates == auto.select_candidates(FROM_SCRATCH, task)[0]
    assert any("pip install 'oddlens[pretrained]'" in reason for reason in reasons)
    assert not any("pretrained" in reason for reason in auto.select_candidates(FROM_SCRATCH, task)[1])
