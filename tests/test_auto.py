"""auto: an ensemble planned from normal images alone, within a budget, that its plan repeats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from oddlens import auto, models
from oddlens.config import (
    AutoencoderSettings,
    EnsembleSettings,
    InputSpec,
    Member,
    TrainingSettings,
    TransformsSettings,
)
from oddlens.detector import Detector
from oddlens.errors import ArtifactError, SettingsError
from oddlens.images import Pixels


def arrows(count: int, seed: int = 0) -> Pixels:
    """Pictures (N, 16, 16, 1) of something that points up and to the right: neither turned nor mirrored is the same."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (count, 16, 16, 1), dtype=np.uint8)
    for picture in pixels:
        top, left = rng.integers(1, 4, 2)
        picture[top : top + 10, left : left + 3] = 200
        picture[top : top + 3, left : left + 9] = 160
    return pixels


def task(pixels: Pixels, **changes: object) -> auto.Task:
    count, height, width, channels = pixels.shape
    spec = InputSpec(height=height, width=width, channels=1 if channels == 1 else 3)
    values = {"roi": None, "device": torch.device("cpu"), "seed": 0} | changes
    return auto.Task(pixels[: -count // 5], pixels[-count // 5 :], spec, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector("auto", budget=12.0).fit(arrows(150))


def test_auto_tells_what_it_chose_and_why(fitted: Detector) -> None:
    chosen = fitted.manifest.model
    assert isinstance(chosen, EnsembleSettings)
    remarks = " ".join(fitted.manifest.remarks)
    for member in chosen.members:
        assert member.model.family in remarks
    assert "do not count as normal" in remarks  # an arrow is not its mirror image


def test_auto_sees_what_is_odd(fitted: Detector) -> None:
    turned = np.ascontiguousarray(np.rot90(arrows(40, seed=1), 2, axes=(1, 2)))
    normal, odd = fitted.score(arrows(40, seed=2)), fitted.score(turned)
    assert np.median(odd) > normal.max()


def test_the_plan_in_a_detector_file_makes_the_same_detector_again(fitted: Detector, tmp_path: Path) -> None:
    plan = auto.load_plan(fitted.save(tmp_path / "part.safetensors"))
    again = Detector(plan).fit(arrows(150))
    for name, tensor in fitted.tensors.items():
        np.testing.assert_array_equal(tensor, again.tensors[name], err_msg=name)


def test_a_plan_can_be_a_json_file(fitted: Detector, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(fitted.manifest.model.model_dump_json())
    assert auto.load_plan(path) == fitted.manifest.model


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
    assert data.n_training + data.n_calibration < 150  # the rest standardises
    assert not set(fitted.seen("training").tolist()) & set(fitted.seen("calibration").tolist())


def test_symmetric_pictures_count_mirrored_as_normal() -> None:
    pictures = arrows(200)
    assert auto.mirrored_distance(pictures, 0) > auto.ALIKE
    symmetric = np.concatenate([pictures, pictures[:, :, ::-1]])
    assert auto.mirrored_distance(symmetric, 0) < auto.ALIKE


def test_large_pictures_are_searched_for_defects() -> None:
    families = [settings.family for settings in auto.chosen(task(np.zeros((10, 96, 96, 1), dtype=np.uint8)))[0]]
    assert families == ["dictionary", "defects"]


def test_a_member_that_cannot_tell_turns_apart_gets_no_weight() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 1), dtype=np.uint8)
    work = task(noise)
    model = models.build(TransformsSettings(side=16, widths=(8, 8, 8)), work.spec, 0).eval()
    weight, why = auto.weighed(model, work)
    assert weight < auto.LITTLE
    assert "accuracy" in why


def test_an_ensembles_members_keep_their_own_training() -> None:
    member = Member(model=AutoencoderSettings(widths=(8,), latent_dim=8), training=TrainingSettings(epochs=1))
    plan = EnsembleSettings(members=(member,))
    with pytest.raises(SettingsError, match="epochs cannot be set"):
        Detector(plan, training=TrainingSettings(epochs=3)).fit(arrows(60))
