"""Plans: read from detector files, from JSON files, and from what `show --json` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, DictionarySettings, EnsembleSettings, Member, RotationSettings
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError
from oddlens.training.plan import load_plan

DIGITS = Path(__file__).parent.parent / "compatibility" / "digits.safetensors"


@pytest.fixture
def plan() -> EnsembleSettings:
    """Two members, one of them trained at an uneven pace."""
    rotation = Member(model=RotationSettings(side=16), training=TrainingSettings(pace=(0.1, 1.0), seed=4), weight=0.5)
    return EnsembleSettings(members=(Member(model=DictionarySettings(atoms=10)), rotation))


def test_a_plan_is_read_from_the_settings_of_an_ensemble(plan: EnsembleSettings, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    assert load_plan(path) == plan


def test_a_plan_is_read_from_the_output_of_show(plan: EnsembleSettings, tmp_path: Path) -> None:
    path = tmp_path / "shown.json"
    path.write_text(json.dumps({"manifest": {"model": plan.model_dump(mode="json")}}))
    assert load_plan(path) == plan


def test_a_plan_is_read_from_a_detector_file_with_the_names_that_it_has() -> None:
    plan = load_plan(DIGITS)
    assert "transforms" in [member.model.family for member in plan.members]
    assert [type(member.model) for member in plan.members if member.model.family == "transforms"] == [RotationSettings]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plan.json", "{", "cannot be read as a plan"),
        ("plan.json", json.dumps({"family": "autoencoder"}), "use --detector autoencoder"),
        ("plan.json", json.dumps({"family": "magic"}), "is not a detector"),
        ("plan.txt", "", "holds no plan"),
    ],
)
def test_a_file_without_a_plan_is_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises((SettingsError, ArtifactError), match=message):
        load_plan(path)


def test_the_file_of_a_single_detector_is_refused_with_the_option_to_use(saved: Path) -> None:
    with pytest.raises(SettingsError, match=r"is the plan of a single detector .* use --detector autoencoder"):
        load_plan(saved)


def test_a_missing_plan_is_refused_with_the_command_that_prints_one(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no such plan; `oddlens show DETECTOR --json` prints"):
        load_plan(tmp_path / "none.json")


def test_the_order_of_the_members_is_that_of_the_plan(tmp_path: Path) -> None:
    members = tuple(Member(model=AutoencoderSettings(latent_dim=dim)) for dim in (3, 2, 1))
    path = tmp_path / "plan.json"
    path.write_text(EnsembleSettings(members=members).model_dump_json())
    assert load_plan(path).members == members
