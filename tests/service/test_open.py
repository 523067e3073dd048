from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE

from oddlens.errors import MissingExtraError
from oddlens.service import open as door
from oddlens.service import server


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "find_spec", lambda name: None if name == "uvicorn" else importlib.util.find_spec(name))
    with pytest.raises(MissingExtraError, match=r"oddlens\[serve\]"):
        door.serve(settings(DETECTOR_FILE), lambda url, service: None)


def test_the_door_passes_all_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[Any]()
    monkeypatch.setattr(server, "run_server", lambda *arguments: calls.append(arguments))
    arguments = (settings(DETECTOR_FILE), lambda url, service: None, ())
    door.serve(*arguments)
    assert calls == [arguments]
