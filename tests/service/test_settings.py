from __future__ import annotations

from pathlib import Path

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE

from oddlens.errors import DataNotFoundError, SettingsError
from oddlens.service.settings import default_store, is_loopback, name_detectors
from oddlens.service.users import User

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
