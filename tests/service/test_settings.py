from __future__ import annotations

from pathlib import Path

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE

from oddlens.errors import DataNotFoundError, SettingsError
from oddlens.service.settings import ServiceSettings, default_store, is_loopback, name_detectors
from oddlens.service.users import User
from oddlens.store.open import open_store

ENGINEER = User("ann", "engineer", "a-token-of-24-characters")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.example"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(SettingsError, match="--token-file"):
        settings(DETECTOR_FILE, host=host)
    assert settings(DETECTOR_FILE, host=host, users=(ENGINEER,)).users == (ENGINEER,)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_of_this_machine_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert settings(DETECTOR_FILE, host=host).users == ()


def test_a_token_is_not_shown_with_the_settings() -> None:
    assert str(ENGINEER.token) not in repr(settings(DETECTOR_FILE, users=(ENGINEER,)))


@pytest.mark.parametrize("change", [{"deadline": 0.0}, {"deadline": float("nan")}, {"queue": 0}, {"keep_days": 1.0}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        settings(DETECTOR_FILE, **change)


def test_detectors_are_named_by_their_files_or_by_the_user() -> None:
    assert name_detectors([str(DETECTOR_FILE), f"line-2={DETECTOR_FILE}"]) == {
        "tiles": DETECTOR_FILE,
        "line-2": DETECTOR_FILE,
    }
    assert default_store(DETECTOR_FILE) == str(DETECTOR_FILE.parent / "inspections.db")
    assert default_store(None) == "inspections.db"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["part.safetensors"], "oddlens export"),
        ([str(DETECTOR_FILE)] * 2, "another name"),
        ([f"../up={DETECTOR_FILE}"], "letters"),
        ([f"={DETECTOR_FILE}"], "letters"),
    ],
)
def test_detectors_that_cannot_be_told_apart_or_served_are_refused(arguments: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        name_detectors(arguments)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"missing\.onnx"):
        name_detectors([str(tmp_path / "missing.onnx")])


def with_root(root: Path, store: str | None) -> ServiceSettings:
    return settings(DETECTOR_FILE, detectors={}, root=root, store=store)


def test_detectors_may_be_left_out_where_there_are_photographs(tmp_path: Path) -> None:
    photos, postgresql = tmp_path / "photos", "postgresql://oddlens@127.0.0.1/parts?files="
    photos.mkdir()
    assert with_root(photos, f"{tmp_path}/parts.db").root == photos
    assert with_root(photos, f"{postgresql}{tmp_path}/files").root == photos
    with pytest.raises(SettingsError, match="nothing to serve: name a detector"):
        settings(DETECTOR_FILE, detectors={})
    with pytest.raises(SettingsError, match="leave out --no-store"):
        with_root(photos, None)
    for missing in (tmp_path / "missing", DETECTOR_FILE):
        with pytest.raises(DataNotFoundError, match="is not a folder"):
            with_root(missing, "parts.db")


def test_the_photographs_and_the_store_lie_apart(tmp_path: Path) -> None:
    photos, link, postgresql = tmp_path / "photos", tmp_path / "link", "postgresql://oddlens@127.0.0.1/parts?files="
    photos.mkdir()
    link.symlink_to(photos)
    for store in (
        f"{photos}/parts.db",
        f"sqlite:///{photos}/deep/parts.db",
        f"{link}/parts.db",
        f"sqlite:///{tmp_path}/parts.db?files={photos}",
        f"{postgresql}{photos}/files",
    ):
        with pytest.raises(SettingsError, match=r"would lie below --root .* \(--store\)"):
            with_root(photos, store)
    with pytest.raises(SettingsError, match="would lie below"):
        with_root(link, f"{photos}/parts.db")
    assert list(photos.iterdir()) == []


def test_photographs_among_the_files_of_any_store_are_refused(tmp_path: Path) -> None:
    open_store(str(tmp_path / "old.db")).close()
    own, others = tmp_path / "parts.db.files" / "photos", tmp_path / "old.db.files" / "deep"
    for root in (own, others):
        root.mkdir(parents=True)
        with pytest.raises(SettingsError, match="lies among the files of a store"):
            with_root(root, f"{tmp_path}/parts.db")
