"""Projects: changes, revisions, and the region as the mask that `fit` reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from photo_folders import Desk

from oddlens.config.base import InputSpec
from oddlens.data.preprocessing import read_roi
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError, StateError
from oddlens.io.own_folder import lock
from oddlens.pages.learning.projects import FitSettings, Polygon, mask_file

LEFT_HALF: tuple[Polygon, ...] = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)


def test_a_project_is_read_as_it_was_written(desk: Desk) -> None:
    project = desk.projects.create(" Caps <b>\u00e9 ", desk.parts)
    assert (project.name, project.revision, project.folder) == ("Caps <b>\u00e9", 1, desk.parts)
    settings = FitSettings(detector="patchcore", false_alarm_rate=0.05, budget=60.0, tile=64, light="fixed")
    changed = desk.projects.change(
        project.id, 1, name="Lids", excluded=["b" * 16, "a" * 16, "b" * 16], region=LEFT_HALF, settings=settings
    )
    assert changed == desk.projects.get(project.id)
    assert (changed.revision, changed.name, changed.excluded) == (2, "Lids", ("a" * 16, "b" * 16))
    assert (changed.region, changed.settings, changed.created) == (LEFT_HALF, settings, project.created)
    assert desk.projects.change(project.id, 2, region=[], excluded=[]).region == ()


def test_projects_are_listed_newest_first(desk: Desk) -> None:
    names = [desk.projects.create(name, desk.parts).name for name in ("a", "b", "c")]
    assert [project.name for project in desk.projects.all()] == names[::-1]


def test_a_stale_revision_is_refused_and_changes_nothing(desk: Desk) -> None:
    project = desk.projects.create("Caps", desk.parts)
    desk.projects.change(project.id, 1, excluded=["a" * 16])
    with pytest.raises(StateError, match=r"somebody else has changed the project 'Caps'; read it again"):
        desk.projects.change(project.id, 1, name="Lids")
    assert desk.projects.get(project.id).name == "Caps"


def test_a_change_at_the_same_moment_is_refused(desk: Desk) -> None:
    project = desk.projects.create("Caps", desk.parts)
    with lock(desk.workspace.project(project.id)), pytest.raises(StateError):
        desk.projects.change(project.id, 1, name="Lids")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "  "}, "name"),
        ({"name": "a" * 201}, "name"),
        ({"excluded": ["../../etc/passwd"]}, "excluded"),
        ({"region": [[[0, 0], [1, 1]]]}, "region"),
        ({"region": [[[0, 0], [2, 0], [1, 1]]]}, "region"),
        ({"region": [[[0, 0], [float("nan"), 0], [1, 1]]]}, "region"),
        ({"region": [[[0.5, 0.5]] * 3]}, "contains nothing"),
        ({"region": [[[0.1, 0.1], [0.9, 0.9], [0.5, 0.5]]]}, "contains nothing"),
        ({"settings": FitSettings(detector="magic")}, "magic"),
        ({"settings": FitSettings(detector="autoencoder", light="fixed")}, "light is for the detectors"),
    ],
)
def test_a_wrong_change_is_refused_in_words_and_changes_nothing(
    desk: Desk, changes: dict[str, object], message: str
) -> None:
    project = desk.projects.create("Caps", desk.parts)
    with pytest.raises(SettingsError, match=message):
        desk.projects.change(project.id, 1, **changes)  # type: ignore[arg-type]
    assert desk.projects.get(project.id) == project


def test_unknown_damaged_and_other_projects_are_errors_in_words(desk: Desk) -> None:
    with pytest.raises(DataNotFoundError, match="no project"):
        desk.projects.get("../jobs")
    project = desk.projects.create("Caps", desk.parts)
    path = desk.workspace.project(project.id) / "project.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 7}))
    with pytest.raises(ArtifactError, match="another version"):
        desk.projects.get(project.id)
    path.write_text('{"version": 1, "id": "a"}')
    with pytest.raises(SettingsError, match=r"project\.json"):
        desk.projects.get(project.id)


def test_a_region_is_the_mask_that_fit_reads(tmp_path: Path) -> None:
    (tmp_path / "region.png").write_bytes(mask_file(LEFT_HALF))
    roi = read_roi(str(tmp_path / "region.png"), InputSpec(height=8, width=16, channels=1))
    np.testing.assert_array_equal(roi, np.tile(np.arange(16) < 8, (8, 1)))


def test_several_polygons_count_together_and_the_whole_image_may_be_one(tmp_path: Path) -> None:
    right = (((0.75, 0.0), (1.0, 0.0), (1.0, 1.0), (0.75, 1.0)),)
    (tmp_path / "region.png").write_bytes(mask_file((*LEFT_HALF, *right)))
    roi = read_roi(str(tmp_path / "region.png"), InputSpec(height=8, width=16, channels=1))
    assert roi[0].tolist() == [True] * 8 + [False] * 4 + [True] * 4
    whole: tuple[Polygon, ...] = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),)
    (tmp_path / "region.png").write_bytes(mask_file(whole))
    assert read_roi(str(tmp_path / "region.png"), InputSpec(height=8, width=16, channels=1)).all()
