"""auto: an ensemble planned from normal images alone, within a budget, that its plan repeats."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import (
    DEFAULT_TRAINING,
    AutoencoderSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, DataError, SettingsError
from oddlens.models import registry
from oddlens.models.base import Model
from oddlens.training import auto, loop
from oddlens.training.members import TrainedMember, TrainingTask


def arrows(count: int, seed: int = 0) -> Pixels:
    """Pictures (N, 16, 16, 1) of something that points up and to the right: neither turned nor mirrored is the same."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (count, 16, 16, 1), dtype=np.uint8)
    for picture in pixels:
        top, left = rng.integers(1, 4, 2)
        picture[top : top + 10, left : left + 3] = 200
        picture[top : top + 3, left : left + 9] = 160
    return pixels


def task(pixels: Pixels, **changes: object) -> TrainingTask:
    count, height, width, channels = pixels.shape
    spec = InputSpec(height=height, width=width, channels=1 if channels == 1 else 3)
    values = {"roi": None, "device": torch.device("cpu"), "seed": 0} | changes
    return TrainingTask(pixels[: -count // 5], pixels[-count // 5 :], spec, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> Detector:
    """With time for all of a few epochs, so that the clock decides nothing."""
    brief = DEFAULT_TRAINING["transforms"].model_copy(update={"epochs": 10})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFAULT_TRAINING, "transforms", brief)
        return Detector("auto", budget=600.0).fit(arrows(210))


@pytest.fixture(scope="module")
def plan() -> EnsembleSettings:
    """Two members, one of them trained at an uneven pace."""
    turning = TrainingSettings(batch_size=32, optimizer="muon", schedule="linear", pace=(0.1, 0.5, 0.7, 1.0), seed=4)
    return EnsembleSettings(
        members=(
            Member(model=DictionarySettings(atoms=10), training=TrainingSettings(seed=4)),
            Member(model=RotationSettings(side=16, widths=(8, 8, 16), bank=50), training=turning, weight=0.5),
        )
    )


def test_auto_tells_what_it_chose_and_why(fitted: Detector) -> None:
    chosen = fitted.manifest.model
    assert isinstance(chosen, EnsembleSettings)
    assert [member.model.family for member in chosen.members] == ["dictionary", "transforms"]
    assert len(chosen.members[1].training.pace) > 1
    remarks = " ".join(fitted.manifest.remarks)
    assert "dictionary:" in remarks
    assert "accuracy" in remarks
    assert "do not count as normal" in remarks  # an arrow is not its mirror image


def test_auto_sees_what_is_odd(fitted: Detector) -> None:
    turned = np.ascontiguousarray(np.rot90(arrows(40, seed=1), 2, axes=(1, 2)))
    normal, odd = fitted.score(arrows(40, seed=2)), fitted.score(turned)
    assert np.median(odd) > normal.max()


def test_a_plan_makes_the_same_detector_again(plan: EnsembleSettings, tmp_path: Path) -> None:
    first = Detector(plan).fit(arrows(150))
    assert first.manifest.training.seed == 4
    again = Detector(auto.load_plan(first.save(tmp_path / "part.safetensors"))).fit(arrows(150))
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)


def test_what_auto_made_can_be_made_again_by_its_plan(fitted: Detector) -> None:
    assert isinstance(fitted.manifest.model, EnsembleSettings)
    again = Detector(fitted.manifest.model).fit(arrows(210))
    for name, tensor in fitted.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)


def test_a_plan_can_be_a_json_file_or_what_show_prints(plan: EnsembleSettings, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    assert auto.load_plan(path) == plan
    path.write_text(json.dumps({"manifest": {"model": plan.model_dump(mode="json")}}))
    assert auto.load_plan(path) == plan


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", "{", "cannot be read as a plan"),
        ("plan.json", json.dumps({"family": "autoencoder"}), "use --detector autoencoder"),
        ("plan.json", json.dumps({"family": "magic"}), "is not a detector"),
        ("plan.txt", "", "holds no plan"),
    ],
)
def test_what_is_no_plan_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises((SettingsError, ArtifactError), match=message):
        auto.load_plan(path)


def test_training_standardising_and_calibrating_use_disjoint_images(fitted: Detector) -> None:
    data = fitted.manifest.data
    assert min(data.n_training, data.n_standardising, data.n_calibration) > 0
    assert data.n_training + data.n_standardising + data.n_calibration == 210
    used = np.concatenate([fitted.fingerprints("training"), fitted.fingerprints("calibration")])
    assert len(np.unique(used)) == 210
    with pytest.raises(DataError, match="trained on"):  # also those that only standardised
        fitted.calibrate(arrows(210))


def test_too_few_images_to_weigh_members_make_a_single_one() -> None:
    found = Detector("auto").fit(arrows(30)).manifest
    assert isinstance(found.model, EnsembleSettings)
    assert [member.model.family for member in found.model.members] == ["dictionary"]
    assert "too few to weigh several" in " ".join(found.remarks)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_handful_of_images_is_enough_to_begin(count: int) -> None:
    scores = Detector("auto").fit(arrows(count)).score(arrows(5, seed=1))
    assert np.isfinite(scores).all()


def test_symmetric_pictures_count_mirrored_as_normal() -> None:
    pictures = arrows(200)
    assert auto.mirrored_distance(pictures, 0) > auto.MAX_MIRROR_RATIO
    symmetric = np.concatenate([pictures, pictures[:, :, ::-1]])
    assert auto.mirrored_distance(symmetric, 0) < auto.MAX_MIRROR_RATIO


def test_large_pictures_are_searched_for_defects() -> None:
    pictures = np.zeros((200, 96, 96, 1), dtype=np.uint8)
    titles = [auto.member_title(settings) for settings in auto.select_candidates(task(pictures))[0]]
    assert titles == ["dictionary", "defects at 1/2 of the size", "defects"]


def test_members_that_learn_share_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def trained(model: Model, member: Member, task: TrainingTask, number: int, deadline: float) -> TrainedMember:
        given.append(deadline - time.perf_counter())
        model.eval()
        return TrainedMember(member, model, [])

    monkeypatch.setattr(auto, "train_member", trained)
    monkeypatch.setattr(auto, "member_weight", lambda model, task: (1.0, "weight 1"))
    monkeypatch.setattr(auto, "scoring_seconds", lambda members, task: 10.0 * len(members))
    pictures = np.random.default_rng(0).integers(0, 255, (120, 80, 80, 1), dtype=np.uint8)
    auto.train_auto(task(pictures, deadline=time.perf_counter() + 130))
    assert given[1:] == pytest.approx([50, 100], abs=5)  # half of what scoring all three leaves; then all of it


def test_the_weight_follows_from_how_well_turns_are_told() -> None:
    training = TrainingSettings(epochs=8, batch_size=32, optimizer="muon", schedule="linear")
    weights = {}
    noise = np.random.default_rng(0).integers(0, 255, (200, 16, 16, 1), dtype=np.uint8)
    for name, pictures in (("noise", noise), ("arrows", arrows(200))):
        work = task(pictures)
        model = registry.build(RotationSettings(side=16, widths=(8, 8, 16), mirror=False), work.spec, 0)
        loop.train(model, work.train, training, work.device)
        weights[name], why = auto.member_weight(model, work)
        assert "accuracy" in why
    assert weights["noise"] < auto.MIN_MEMBER_WEIGHT
    assert weights["arrows"] > 1


def test_a_region_that_tells_the_turn_by_itself_leaves_transforms_out() -> None:
    roi = np.zeros((16, 16), dtype=bool)
    roi[:, :10] = True
    pictures = arrows(200)
    families, why = auto.select_candidates(task(pictures, roi=roi))
    assert [settings.family for settings in families] == ["dictionary"]
    assert "region of interest" in why[-1]
    model = registry.build(RotationSettings(side=16, widths=(8, 8, 16)), task(pictures).spec, 0)
    model.set_roi(roi)
    assert "region of interest" in str(model.remark(torch.from_numpy(pictures)))


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (Detector("auto", budget=-5.0), "leaves no time"),
        (Detector("ensemble"), "needs members"),
        (Detector("dictionary", training=TrainingSettings(epochs=3)), "learned in one step"),
        (Detector("autoencoder", training=TrainingSettings(optimizer="muon")), "use adam"),
        (Detector("auto", training=TrainingSettings(epochs=3)), "set the budget"),
    ],
)
def test_what_does_not_go_together_is_refused(detector: Detector, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        detector.fit(arrows(60))


def test_a_plan_takes_no_budget(plan: EnsembleSettings) -> None:
    with pytest.raises(SettingsError, match="takes no budget"):
        Detector(plan, budget=10.0).fit(arrows(60))


def test_an_ensembles_members_keep_their_own_training() -> None:
    member = Member(model=AutoencoderSettings(widths=(8,), latent_dim=8), training=TrainingSettings(epochs=1))
    plan = EnsembleSettings(members=(member,))
    with pytest.raises(SettingsError, match="epochs cannot be set"):
        Detector(plan, training=TrainingSettings(epochs=3)).fit(arrows(60))
