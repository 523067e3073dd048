"""Deployments and actions: who did what and when, and the files of deployments stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE, DIGEST, inspection, save_other, stored_paths

from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError, StateError
from oddlens.store.inspection import as_json
from oddlens.store.open import open_store
from oddlens.store.store import Store


@pytest.fixture
def other(tmp_path: Path) -> tuple[Detector, Path]:
    """Another detector and its file."""
    path = tmp_path / "other.onnx"
    return save_other(path), path


def test_the_newest_deployment_of_each_name_is_in_service(store: Store, other: tuple[Detector, Path]) -> None:
    store.add_detector(*other)
    digest = other[0].manifest.digest
    assert (store.deployments(), store.deployed()) == ([], {})
    before = datetime.now(UTC)
    first = store.deploy("part", DIGEST, person="Ann", reason="first")
    store.deploy("bolt", DIGEST, person="Ann")
    store.deploy("part", digest, person="Bob", reason="lower threshold")
    back = store.deploy("part", DIGEST, person="Cem", reason="too many alarms")
    assert (first.id, first.name, first.detector_digest, first.person, first.reason) == (
        1, "part", DIGEST, "Ann", "first"
    )  # fmt: skip
    assert before <= first.time <= datetime.now(UTC)
    assert [one.id for one in store.deployments()] == [4, 3, 2, 1]
    assert [one.id for one in store.deployments("part", limit=2)] == [4, 3]
    assert store.deployments("none\0") == []
    assert list(store.deployed()) == ["bolt", "part"]
    assert store.deployed()["part"] == back
    assert store.has_served(digest, "part")
    assert store.has_served(digest)
    assert not store.has_served(digest, "bolt")
    assert not store.has_served("0" * 64)
    assert as_json(back)["time"] == back.time.isoformat()


def test_a_name_is_out_of_service_until_it_is_put_into_it_again(store: Store) -> None:
    first = store.deploy("part", DIGEST, person="Ann")
    store.deploy("bolt", DIGEST, person="Ann")
    action = store.take_out_of_service("part", person="Bob", reason="line 2 is closed")
    assert (list(store.deployed()), store.out_of_service()) == (["bolt"], {"part": action})
    assert (action.person, action.details) == ("Bob", {"reason": "line 2 is closed"})
    assert store.deployments("part") == [first], "it stays in the history"
    store.deploy("part", DIGEST, person="Ann")
    assert (list(store.deployed()), store.out_of_service()) == (["bolt", "part"], {})


def test_only_a_stored_detector_is_put_into_service(store: Store) -> None:
    with pytest.raises(StateError, match="the detector 0000 is not in the store; call add_detector first"):
        store.deploy("part", "0000", person="Ann")
    store.prune(keep_gb=0)
    with pytest.raises(StateError, match="call add_detector first"):
        store.deploy("part", DIGEST, person="Ann")
    assert store.deployments() == []


@pytest.mark.parametrize("name", ["", "a b", "../up", "-a", "a\0", "ä", "a" * 65, "part\n"])
def test_a_name_that_is_no_part_of_an_address_is_refused(name: str, store: Store) -> None:
    with pytest.raises(SettingsError, match="the name of a detector"):
        store.deploy(name, DIGEST, person="Ann")


def test_every_row_needs_a_person_and_takes_any_text(store: Store) -> None:
    with pytest.raises(SettingsError, match="a deployment needs the name of the person"):
        store.deploy("part", DIGEST, person=" ")
    with pytest.raises(SettingsError, match="an action needs the name of the person"):
        store.record_action("fitted", "part", person="")
    deployment = store.deploy("part", DIGEST, person="Ann\0", reason="<script>\ud800")
    assert (deployment.person, deployment.reason) == ("Ann\\x00", "<script>\\ud800")
    assert store.deployments() == [deployment]


def test_actions_come_back_newest_first_with_their_details(store: Store) -> None:
    details = {"images": ["a\0.png", "缺陷"], "n": 2, "rate": 0.1 + 0.2, "roi": None}
    first = store.record_action("excluded images", "project 1\0", person="Ann", details=details)
    assert (first.subject, first.details) == ("project 1\\x00", details)
    rest = [store.record_action("started a fit", f"project {i}", person="Bob") for i in range(3)]
    assert rest[0].details == {}
    assert store.actions() == [*rest[::-1], first]
    assert [one.id for one in store.actions(limit=2)] == [4, 3]
    assert [one.id for one in store.actions(limit=2, before=3)] == [2, 1]


@pytest.mark.parametrize("value", [float("nan"), object(), b"bytes"])
def test_details_that_are_not_json_are_refused(value: object, store: Store) -> None:
    with pytest.raises(SettingsError, match="values for JSON"):
        store.record_action("fitted", "part", person="Ann", details={"value": value})
    assert store.actions() == []


def test_retention_leaves_the_files_of_all_deployments(store: Store, other: tuple[Detector, Path]) -> None:
    store.add_detector(*other)
    store.deploy("part", DIGEST, person="Ann")
    old = datetime.now(UTC) - timedelta(days=400)
    store.add(inspection(time=old), b"image")
    dry = store.prune(keep_days=0, keep_gb=0, dry_run=True)
    pruned = store.prune(keep_days=0, keep_gb=0)
    assert dry.as_json() == pruned.as_json() | {"dry_run": True}
    assert (pruned.expired, pruned.remaining, pruned.remaining_bytes) == (2, 1, DETECTOR_FILE.stat().st_size)
    assert stored_paths(store) == [store.files.path(store.inspection(1).detector_sha256)]
    assert store.detector_content(DIGEST) == (".onnx", DETECTOR_FILE.read_bytes())
    assert store.check() == []


def test_deployed_files_count_first_towards_the_size(store: Store) -> None:
    """The store takes no more than the limit, although a deployed file is older than the images."""
    store.deploy("part", DIGEST, person="Ann")
    later = datetime.now(UTC) + timedelta(days=1)
    for i in range(4):
        store.add(inspection(time=later + timedelta(days=i)), b"%01000d" % i)
    size = DETECTOR_FILE.stat().st_size
    pruned = store.prune(keep_gb=(size + 2000) / 1e9)
    assert (pruned.expired, pruned.remaining_bytes) == (2, size + 2000)
    assert [one.id for one in store.inspections() if one.image_stored] == [4, 3]


def test_a_deployed_detector_is_there_for_another_process(store: Store, url: str) -> None:
    store.deploy("part", DIGEST, person="Ann")
    store.prune(keep_gb=0)
    with open_store(url) as another:
        assert another.detector_content(another.deployed()["part"].detector_digest)[0] == ".onnx"
        assert another.add(inspection(), b"image") == 1
